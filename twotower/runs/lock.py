"""The exclusive lock on the directory of a run or a sweep; its file stays until the run is finished."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twotower.core.errors import UserError
from twotower.runs.layout import CHECKPOINTS_FOLDER, CONFIG_FILE, LOCK_FILE


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Exclusive lock on the run directory `path`, which is created where it is missing.

    Temporary files that killed processes left there are removed.

    Raises:
        UserError: another process holds it.
    """
    import fcntl

    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is at work in {path}; wait for it, or stop it") from None
        try:
            for left in (*path.glob(".*.[0-9]*"), *(path / CHECKPOINTS_FOLDER).glob(".*")):
                if left.is_file():
                    left.unlink()
            yield
        finally:
            if not (path / CONFIG_FILE).exists():  # no run has begun, so there is nothing to resume
                (path / LOCK_FILE).unlink(missing_ok=True)
