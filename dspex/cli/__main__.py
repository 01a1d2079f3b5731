from dspex.cli.main import main

main()
