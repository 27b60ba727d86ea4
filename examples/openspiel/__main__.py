from examples.openspiel.cli import main

if __name__ == "__main__":
    main()
