"""`python -m swancli` does what `swan` does."""

from swancli.cli import main

if __name__ == "__main__":
    main()
