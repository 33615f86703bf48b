"""`python -m bedplate` is the same as `bedplate`."""

from bedplate.cli.main import main

if __name__ == "__main__":
    main()
