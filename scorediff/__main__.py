"""`python -m scorediff` is the command line."""

from scorediff.cli import main

if __name__ == "__main__":
    main()
