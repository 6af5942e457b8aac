"""Erase users: find their rows in files of events and what was made from these; with --yes, erase them.

Without --yes nothing is changed: it answers what is held of a user. With it the files are written anew without these
rows, each whole or not at all; prepared directories and stores that were made from them are deleted, as the next
preparation makes them again; models that have learnt from them are named, with the day by which they must be trained
again; and a certificate is written.

    twotower erase customer-17 --events 'events/*.parquet'
    twotower erase users.txt --events 'events/*.parquet' --yes
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twotower.lifecycle.erasure import Erased

USUAL = ("prepared", "store", "runs", "multirun", "retrained", "bundles")  # folders, beside the present one's


def main(arguments: Sequence[str]) -> int:
    """`twotower erase USER ... --events PATH`: print what was found and done; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="twotower erase", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("users", nargs="+", metavar="USER", help="ids of users, or one file of them")
    parser.add_argument("--events", required=True, help="a file, a folder or a quoted glob of event files")
    parser.add_argument("--column", default="user_id", help="the files' name for the user (default: %(default)s)")
    places = f"where to look for what was made from them (default: {', '.join(USUAL)})"
    parser.add_argument("--in", dest="folders", nargs="*", type=Path, help=places)
    parser.add_argument(
        "--days", type=int, default=30, help="until a model must be trained again (default: %(default)s)"
    )
    parser.add_argument("--certificate", type=Path, default=Path("erasure.json"), help="(default: %(default)s)")
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db", help="MLflow's (default: %(default)s)")
    parser.add_argument("--yes", action="store_true", help="erase; without it, only look")
    options = parser.parse_args(arguments)

    from datetime import UTC, datetime, timedelta

    from twotower.core.values import TextForm
    from twotower.data.readers.files import find_files
    from twotower.lifecycle.erasure import erase_rows, listed_users
    from twotower.lifecycle.lineage import MODELS, descendants

    form = TextForm()
    users = listed_users(options.users, options.column, form)
    begun = _begun(options.certificate) if options.yes else []
    files = find_files(options.events, "--events")
    held = [each for file in files if (each := erase_rows(file, options.column, users, form, write=False)).found]
    for each in held:
        print(f"{each.path}: {each.found:,} of {each.rows:,} rows")
    if not held and not begun:
        print(f"no row of {len(users):,} user(s) in {len(files):,} file(s); is {options.column} the right column?")
        return 0
    folders = [folder for folder in options.folders or map(Path, USUAL) if folder.is_dir()]
    paths = sorted({*(each.path for each in held), *map(Path, begun)})
    made = descendants(paths, folders, options.tracking_uri)
    until = f"{datetime.now(UTC) + timedelta(days=options.days):%Y-%m-%d}"
    for one in made:
        fate = f"may have learnt from them, train again by {until}" if one.kind in MODELS else "is made from them"
        print(f"{one.kind} {one.name}: {fate}")
    if not options.yes:
        print("nothing was changed; --yes erases the rows, and deletes what is made from them")
        return 0

    certificate: dict[str, Any] = {
        "finished": False,
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "users": len(users),
        "files": [{"path": str(path)} for path in paths],
        "deleted": [one._asdict() for one in made if one.kind not in MODELS],
        "train_again": [{**one._asdict(), "by": until} for one in made if one.kind in MODELS],
    }
    _erase(
        certificate, options.certificate, files, lambda file: erase_rows(file, options.column, users, form, write=True)
    )
    print(f"{certificate['rows_erased']:,} rows of {len(users):,} user(s) erased; a search finds none")
    print(f"certificate: {options.certificate}")
    return 0


def _begun(certificate: Path) -> list[str]:
    """The files of an erasure that was killed; raises UserError where the certificate is that of a finished one."""
    from twotower.core.errors import UserError
    from twotower.core.files import read_json

    if not certificate.exists():
        return []
    content = read_json(certificate, "a certificate of erasure")
    if content.get("finished", True):
        raise UserError(f"{certificate} exists already; name another: --certificate FILE")
    return [each["path"] for each in content["files"]]


def _erase(certificate: dict[str, Any], path: Path, files: Sequence[Path], erase: "Callable[[Path], Erased]") -> None:
    """Delete what was made from the files, erase the rows, search again; the certificate is written before and after.

    A second call after a kill goes on with the files that the unfinished certificate names.
    """
    import shutil

    from twotower.core.errors import UserError
    from twotower.core.files import write_json

    write_json(path, certificate)
    for each in certificate["deleted"]:
        shutil.rmtree(each["name"], ignore_errors=True)
    done = [erased for file in files if (erased := erase(file)).found]
    if any(erase(file).found for file in files):
        raise UserError("rows have come back: another process writes to these files; stop it, and erase again")
    told = {str(erased.path): {**erased._asdict(), "path": str(erased.path)} for erased in done}
    certificate["files"] = [told.get(each["path"], each) for each in certificate["files"]]
    certificate |= {"finished": True, "rows_erased": sum(erased.found for erased in done), "rows_found_afterwards": 0}
    write_json(path, certificate)
