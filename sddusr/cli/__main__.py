from sddusr.cli.main import main

main()
