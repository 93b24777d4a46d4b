from sddusr.shipped import main

main()
