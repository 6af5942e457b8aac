"""Shared by the tests of the data path: preparing events in one call, and the real data."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from twotower.data import splits
from twotower.data.prepare import prepare_events

Prepare = Callable[..., Path]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Prepare the events at a path into tmp_path/prepared, with a temporal split unless another is given."""

    def run(path: object, split: Callable[..., Any] | None = None, **settings: Any) -> Path:
        return prepare_events(
            path=str(path),
            columns=settings.get("columns", {}),
            timestamp_unit=settings.get("timestamp_unit", "auto"),
            session_gap_minutes=settings.get("session_gap_minutes", 30),
            split=split or partial(splits.temporal, test_fraction=0.25, validation_fraction=0.25),
            prepared_root=str(tmp_path / "prepared"),
        ).path

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets beside the repository."""
    repository = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("TWOTOWER_SHARED_DATA") or repository.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; TWOTOWER_SHARED_DATA can name another folder")
    return folder
