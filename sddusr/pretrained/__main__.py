from sddusr.pretrained import main

main()
