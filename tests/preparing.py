"""Shared by the tests of the data path: preparing events in one call, and the real data."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from twotower.core.schema import Prepared
from twotower.data.preparation import splits
from twotower.data.preparation.prepare import Preparation
from twotower.data.readers import events
from twotower.data.readers.source import Source

Prepare = Callable[..., Path]


def preparing(root: Path, split: Callable[..., Any] | None = None, **settings: Any) -> Callable[[Source], Prepared]:
    """The preparation into `root` with few settings; a temporal split unless another is given."""
    defaults = {
        "session_gap_minutes": 30,
        "time_zone": "UTC",
        "bounce": None,
        "features": {},
        "min_users_per_item": 1,
        "until": None,
        "erase": None,
        "memory_gib": 2,
    }
    split = split or partial(splits.temporal, test_fraction=0.25, validation_fraction=0.25)
    return Preparation(**defaults | settings, split=split, prepared_root=str(root))


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Prepare the events at a path into tmp_path/prepared, with a temporal split unless another is given."""

    def run(path: object, split: Callable[..., Any] | None = None, **settings: Any) -> Path:
        reading = {"columns": {}, "timestamp_unit": "auto", "items": None, "users": None}
        reading |= {name: settings.pop(name) for name in reading if name in settings}
        return events.read(str(path), **reading, prepare=preparing(tmp_path / "prepared", split, **settings)).path

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets beside the repository."""
    repository = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("TWOTOWER_SHARED_DATA") or repository.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; TWOTOWER_SHARED_DATA can name another folder")
    return folder
