from sddusr.visualization.diagnostics import main

main()
