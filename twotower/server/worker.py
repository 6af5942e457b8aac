"""One worker process: uvicorn imports this file and calls `application` in each."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import orjson
from uvicorn.config import STARTUP_FAILURE

from twotower.core.errors import UserError
from twotower.server.app import create_app
from twotower.server.gate import ACCESS_LOG, Gate
from twotower.server.live_models import LiveModels
from twotower.server.settings import Settings
from twotower.server.state import Experiment, State
from twotower.server.store.event_store import open_store
from twotower.server.tokens import Tokens
from twotower.serving import unknown
from twotower.serving.bundle_format import MANIFEST_FILE
from twotower.serving.signature import verify_signature

DAY_S = 86_400.0
STARTED = "started"  # a file beside the location files: a worker has opened all bundles


class JsonLines(logging.Formatter):
    """One JSON object a line.

    >>> JsonLines().format(logging.makeLogRecord({"levelname": "INFO", "name": "twotower", "msg": "ready"}))
    '{"level":"INFO","logger":"twotower","message":"ready"}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON; that of the access log is JSON already."""
        if record.name == ACCESS_LOG:
            return record.getMessage()
        line = {"level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def application() -> Any:
    """Return the ASGI application of the settings in the environment."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger(unknown.__name__).setLevel(logging.ERROR)  # warnings quote requests; the metrics count them
    settings = Settings.from_environment()
    locations = {bucket: Path(file) for bucket, file in settings.locations.items()}
    keys = Path(settings.public_keys) if settings.public_keys else None
    impressions = Path(settings.impressions) if settings.impressions else None

    def check(bundle: Path) -> None:
        if keys is not None:
            verify_signature(bundle, MANIFEST_FILE, keys)

    started = next(iter(locations.values())).with_name(STARTED)
    try:
        models = LiveModels(locations, check, impressions)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if not started.exists():  # what no worker could open at the start, none will; later, another version may come
            os._exit(STARTUP_FAILURE)
        raise SystemExit(1) from None
    started.touch()
    length, expiry = settings.history_length, settings.expiry_days * DAY_S
    store = open_store(settings.store, length, expiry, settings.max_users)
    state = State(models, store, Experiment(settings.salt, settings.share), locations, is_signed=keys is not None)
    app = create_app(state, settings.has_page)
    return Gate(app, Tokens(Path(settings.tokens) if settings.tokens else None), settings.rate)
