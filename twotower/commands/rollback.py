"""Move an alias one step back, to the version that its present one was promoted over.

Again, and it moves back one step more. The reason is kept with the version that is left.
"""

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """`twotower rollback models:/NAME@ALIAS`: move the alias; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="twotower rollback", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("champion", metavar="models:/NAME@ALIAS", help="a promoted alias of a registered model")
    parser.add_argument("--reason", default="no reason given", help="why, in words")
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db", help="MLflow's (default: %(default)s)")
    options = parser.parse_args(arguments)

    from twotower.tracking.champion import Registry

    registry = Registry(options.tracking_uri)
    champion = registry.find(options.champion)
    before = registry.roll_back(champion, options.reason)
    print(f"{options.champion} is version {before.version} again; it was version {champion.version}")
    return 0
