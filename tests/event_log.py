"""A small log to prepare, six sessions of three events."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from twotower.data.preparation import splits

PREDEFINED = partial(splits.predefined, validation_fraction=0.25)
MINUTE = 60_000


def log(path: Path, **columns: Any) -> Path:
    """Six sessions, one after the other, of three events each; columns can be added or replaced."""
    content = {
        "session_id": np.repeat([f"s{i}" for i in range(6)], 3).tolist(),
        "item_id": [1, 2, 3, 2, 3, 1, 3, 1, 2, 1, 1, 2, 3, 3, 1, 2, 2, 3],
        "timestamp": (1_700_000_000_000 + np.arange(18) * 40 * MINUTE).tolist(),
    }
    pl.DataFrame({k: v for k, v in (content | columns).items() if v is not None}, strict=False).write_parquet(path)
    return path
