"""`python -m proxtune` is the command line."""

from proxtune.cli import main

if __name__ == "__main__":
    main()
