"""Where the bundle of a bucket lies: a small file that the supervisor writes and all workers read.

{"bundle": "/models/shop-7", "previous": "/models/shop-6"}
"""

from pathlib import Path

from twotower.core.errors import UserError
from twotower.core.files import read_json, write_json
from twotower.server.live_models import BUNDLE
from twotower.serving.updates import versions

PREVIOUS = "previous"


def point(location: Path, bundle: Path) -> None:
    """Name another folder; the one before is remembered for `rollback`."""
    before = read_json(location, "a location")[BUNDLE] if location.exists() else None
    write_json(location, {BUNDLE: str(bundle.resolve()), PREVIOUS: before})


def rollback(location: Path) -> None:
    """Name the folder before, or, where there is none, make the version before the current one of its bundle.

    Raises:
        UserError: there is neither.
    """
    now = read_json(location, "a location")
    if now.get(PREVIOUS):
        write_json(location, {BUNDLE: now[PREVIOUS], PREVIOUS: now[BUNDLE]})
        return
    try:
        versions.rollback(now[BUNDLE])
    except OSError as error:
        raise UserError(f"the bundle can't be changed: {error.strerror}") from None
