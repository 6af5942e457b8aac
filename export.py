"""Turn a training run into a bundle: the same as `twotower export`, for a checkout."""

import sys

from twotower.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
