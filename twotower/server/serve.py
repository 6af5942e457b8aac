"""Serve bundles over HTTP: events in, recommendations out, each answer with all events so far.

    twotower serve bundles/shop
    twotower serve bundles/shop --workers 2 --store redis://localhost:6379/0 --tokens tokens.json --host 0.0.0.0
    twotower serve models:/shop@champion --challenger models:/shop@candidate --share 0.1 --impressions impressions

New versions of the bundle, and another one behind an alias, are loaded, verified and put in place between two requests.
Without --store user events are kept in memory, shared by all workers, until the server ends.
"""

import argparse
import ipaddress
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.server.locations import point
from twotower.server.requests import CHALLENGER, CHAMPION
from twotower.server.settings import Settings
from twotower.server.store.event_store import open_store
from twotower.server.tokens import Tokens
from twotower.serving.bundle_format import MANIFEST_FILE
from twotower.tracking.lookup import DEFAULT_TRACKING_URI, MODELS

GRACE_S = 20  # for requests that have begun when the server is told to end
MEMORY = Path("/dev/shm")  # files that are in memory alone, where the system has them
SHORTEST_HISTORY = 20


def main(arguments: Sequence[str]) -> int:
    """`twotower serve BUNDLE`: serve until interrupted; return the exit status."""
    options = parser().parse_args(arguments)
    if (options.share and options.challenger is None) or not 0 <= options.share <= 1:
        raise UserError(f"--share {options.share}; expected 0 to 1, and a --challenger that gets it")
    if options.tokens is None and not _is_loopback(options.host):
        raise UserError(
            f"--host {options.host} can be reached from other machines, and without --tokens FILE everybody may read "
            f'and erase: write {{"TOKEN": "read" | "write" | "admin"}} to a file, or leave --host out'
        )
    Tokens(options.tokens)
    if options.store:
        open_store(options.store, SHORTEST_HISTORY, 1.0, 1).close()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twotower-")))
        memory = folder
        if os.access(MEMORY, os.W_OK):
            memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twotower-", dir=MEMORY)))
        bundles = {CHAMPION: options.bundle} | ({CHALLENGER: options.challenger} if options.challenger else {})
        locations = {bucket: folder / f"{bucket}.json" for bucket in bundles}
        for bucket, name in bundles.items():
            _locate(name, locations[bucket], folder / bucket, stack)
        manifest = read_json(Path(read_json(locations[CHAMPION], "a location")["bundle"]) / MANIFEST_FILE, "a bundle")
        settings = Settings(
            locations={bucket: str(file) for bucket, file in locations.items()},
            store=options.store or f"memory:{memory / 'events.sqlite'}",
            history_length=max(int(manifest["max_length"]), SHORTEST_HISTORY),
            expiry_days=options.expiry_days,
            max_users=options.max_users,
            salt=options.salt,
            share=options.share,
            tokens=_absolute(options.tokens),
            impressions=_absolute(options.impressions),
            has_page=options.ui,
            public_keys=_absolute(options.require_signature),
            rate=options.rate,
        )
        settings.to_environment()
        (memory / "metrics").mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(memory / "metrics")
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker has a core
        return _run(options.host, options.port, options.workers, options.ui, options.store)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="twotower serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("bundle", metavar="BUNDLE", help="a folder, or models:/NAME@ALIAS in the registry of MLFLOW_TRACKING_URI")
    add("--challenger", metavar="BUNDLE", help="another one, which answers a share of the users")
    add("--share", type=float, default=0.0, help="of the users that the challenger answers, 0 to 1")
    add("--salt", default="challenger", help="names the experiment: another one draws other users")
    add("--host", default="127.0.0.1", help="(default: %(default)s, this machine alone)")
    add("--port", type=int, default=8000, help="0: a free one (default: %(default)s)")
    add("--workers", type=int, default=1, help="processes; one for each core is best (default: %(default)s)")
    add("--store", metavar="URL", help="of user events: redis://..., sqlite:PATH (default: in memory)")
    add("--expiry-days", type=float, default=30.0, help="after a user's last event (default: %(default)s)")
    add("--max-users", type=int, default=1_000_000, help="the least recent leave (default: %(default)s)")
    add("--tokens", type=Path, metavar="FILE", help='JSON: {"TOKEN": "read" | "write" | "admin"}')
    add("--impressions", type=Path, metavar="FOLDER", help="log what was shown, for `twotower experiment`")
    add("--require-signature", type=Path, metavar="KEYS", help="refuse bundles that none of these keys has signed")
    add("--rate", type=float, help="requests a second of one client and worker; more are refused")
    add("--ui", action="store_true", help="also serve a page to try it")
    return result


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _locate(name: str, location: Path, downloads: Path, stack: ExitStack) -> None:
    """Write the location file of a bundle, and follow it if it is an alias."""
    if not name.startswith(MODELS):
        if not (Path(name) / MANIFEST_FILE).is_file():
            raise UserError(f"{name} is not a bundle; name the folder of an export, or models:/NAME@ALIAS")
        point(location, Path(name))
        return
    from twotower.server.follow_alias import AliasFollower

    follower = AliasFollower(name, os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_TRACKING_URI), location, downloads)
    follower.look()
    follower.start()
    stack.callback(follower.stop)


def _run(host: str, port: int, workers: int, has_page: bool, store: str | None) -> int:
    """Serve until interrupted; return the exit status: 2 where no worker could start."""
    import uvicorn
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    from twotower.server.connections import BoundedConnection

    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        "twotower.server.worker:application", factory=True, workers=workers, host=host, port=port,
        access_log=False, log_level="warning", server_header=False, timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=65, lifespan="on", limit_concurrency=2048, http=BoundedConnection, ws="none",
        proxy_headers=False,  # any client can send them
    )  # fmt: skip
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise UserError(f"--port {port} of {host} can't be used: {error.strerror}; name another port") from None
    listening.listen(2048)  # who connects before a worker is there waits for it
    listening.set_inheritable(True)
    address = f"http://{host}:{listening.getsockname()[1]}"
    print(f"{address} with {workers} worker(s); user events {store or 'in memory, gone when the server ends'}")
    print(f"a page to try it: {address}/" if has_page else f"requests: {address}/openapi.json", flush=True)
    supervisor = Multiprocess(config, [listening])
    supervisor.run()
    return 2 if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
