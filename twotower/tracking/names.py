"""Names that MLflow takes for metrics, parameters and tags, values of parameters, and how many at once."""

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

MAX_LENGTH = 250  # characters
PARAMS_PER_REQUEST, METRICS_PER_REQUEST = 100, 1000  # the most that MLflow takes
NOT_ALLOWED = re.compile(r"[^\w/.\- ]" if sys.platform == "win32" else r"[^\w/.\- :]")
NOT_A_PATH = re.compile(r"^/|/(?=/|$)|^\.\.|(?:^|(?<=/))\.{1,2}(?=/|$)")  # what normalising a path would change


def override_value(value: Any) -> str:
    """Return a setting as an override has it, with neither spaces nor Python's names.

    >>> [override_value(value) for value in (None, True, [1, "gap"], {}, "runs/1")]
    ['null', 'true', '[1,gap]', '{}', 'runs/1']
    """
    if isinstance(value, list):
        return f"[{','.join(map(override_value, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def metric_name(name: str) -> str:
    """Return our name so that MLflow, which sorts, shows a model's own results first, and what is beside them after.

    >>> metric_name("baseline/stan/recall_at_20"), metric_name("test/recall_at_20")
    ('test_baseline/stan/recall_at_20', 'test/recall_at_20')
    """
    return f"test_{name}" if name.startswith(("baseline/", "ceiling/")) else name


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
