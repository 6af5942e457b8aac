"""Names that MLflow takes for metrics, parameters and tags."""

import re
import sys
from collections.abc import Iterable

MAX_LENGTH = 250  # characters
NOT_ALLOWED = re.compile(r"[^\w/.\- ]" if sys.platform == "win32" else r"[^\w/.\- :]")
NOT_A_PATH = re.compile(r"^/|/(?=/|$)|^\.\.|(?:^|(?<=/))\.{1,2}(?=/|$)")  # what normalising a path would change


def allowed_name(name: str) -> str:
    """Replace by `_` each character that MLflow does not allow, and shorten to the length that it allows.

    >>> allowed_name("test/recall_at_20/entfernt?")
    'test/recall_at_20/entfernt_'
    """
    name = NOT_ALLOWED.sub("_", name)[:MAX_LENGTH] or "_"
    return NOT_A_PATH.sub(lambda found: "_" * len(found[0]), name)


def add_allowed_names(known: dict[str, str], names: Iterable[str]) -> None:
    """Add MLflow's name of each name to `known`; a name that is taken gets a number at its end.

    Names that MLflow allows come first, so that they stay as they are.

    >>> known = {}
    >>> add_allowed_names(known, ["gone?", "gone!", "gone_"])
    >>> known
    {'gone_': 'gone_', 'gone?': 'gone__2', 'gone!': 'gone__3'}
    """
    taken = set(known.values())
    new = [name for name in dict.fromkeys(names) if name not in known]
    for name in sorted(new, key=lambda name: name != allowed_name(name)):
        allowed = first = allowed_name(name)
        number = 1
        while allowed in taken:
            number += 1
            end = f"_{number}"
            allowed = first[: MAX_LENGTH - len(end)] + end
        taken.add(allowed)
        known[name] = allowed
