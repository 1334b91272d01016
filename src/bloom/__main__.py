"""`python -m bloom`: the same program as the `bloom` command."""

from bloom.cli.main import main

if __name__ == "__main__":
    main()
