"""Train two towers on a shop's events: the same as `twotower train`, for a checkout and for torchrun."""

import sys

from twotower.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
