"""``python -m pbkv``: the command line, also where nothing but the dependencies is installed."""

from pbkv.cli import main

if __name__ == "__main__":
    main()
