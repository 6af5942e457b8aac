"""The exclusive lock on a run directory; its file stays until the run is finished."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twotower.core.errors import UserError
from twotower.runs.layout import CONFIG_FILE, LOCK_FILE


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Exclusive lock on the run directory `path`, which is created where it is missing.

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
            yield
        finally:
            if not (path / CONFIG_FILE).exists():  # no run has begun, so there is nothing to resume
                (path / LOCK_FILE).unlink(missing_ok=True)
