"""Serve the bundle that comes with the package, an invented outdoor shop, and open its page in the browser.

    twotower demo

Nothing is trained, and what visitors do is forgotten when the command ends, with Ctrl-C. `make demo-bundle` has made
the bundle.
"""

import argparse
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Sequence
from pathlib import Path

BUNDLE = Path(__file__).parents[1] / "server" / "demo"
HOST = "127.0.0.1"
PATIENCE_S = 60  # for the server's first answer
WINDOWS = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")  # without one of these Linux would open a browser in the terminal


def main(arguments: Sequence[str]) -> int:
    """`twotower demo`: serve until interrupted; return the exit status."""
    argparse.ArgumentParser(
        prog="twotower demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)

    from twotower.server import serve

    port = _free_port()
    if sys.platform in ("darwin", "win32") or any(name in os.environ for name in WINDOWS):
        threading.Thread(target=_open_when_ready, args=[f"http://{HOST}:{port}"], daemon=True).start()
    print("an invented outdoor shop; Ctrl-C ends it")
    with tempfile.TemporaryDirectory(prefix="twotower-demo-") as folder:  # a visitor may change items
        bundle = shutil.copytree(BUNDLE, Path(folder, "shop"))
        return serve.main([str(bundle), "--ui", "--host", HOST, "--port", str(port)])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _open_when_ready(address: str) -> None:
    """Open the page once the server answers; where no browser opens, the printed address remains."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{address}/ready", timeout=5):
                break
        except OSError:
            time.sleep(0.1)
    webbrowser.open(f"{address}/")
