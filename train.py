"""Train two towers on a shop's events: python train.py --help; the same as `twotower train`."""

import sys

from twotower.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
