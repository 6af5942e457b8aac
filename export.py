"""Turn a training run into a bundle: python export.py --help; the same as `twotower export`."""

import sys

from twotower.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
