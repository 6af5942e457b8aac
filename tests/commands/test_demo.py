"""The bundle that comes with the package, and the command that serves it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from twotower.commands.demo import BUNDLE
from twotower.serving.retriever import Retriever
from twotower.serving.verify import verify


def test_the_bundled_shop_is_small_and_sound_and_asking_for_purchases_matters() -> None:
    assert verify(BUNDLE) < 1e-5
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) <= 700_000
    retriever = Retriever.load(BUNDLE, strict=True)
    history = [[{"item_id": str(retriever.bundle.item_ids[0]), "event_type": "cart"}]]
    asked = {retriever.recommend(history, objective=each).ids[0][0] for each in (None, "purchase", "view")}
    assert len(asked) > 1


@pytest.mark.slow
def test_the_command_serves_opens_the_browser_and_ends_with_control_c(tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    (tmp_path / "browser.py").write_text(f"import sys; open({str(opened)!r}, 'w').write(sys.argv[1])")
    browser = f"{sys.executable} {tmp_path / 'browser.py'} %s"
    command = [sys.executable, "-m", "twotower.commands.main", "demo"]
    environment = {**os.environ, "BROWSER": browser, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as demo:
        end = time.monotonic() + 60
        while not (opened.exists() and opened.read_text()):
            assert time.monotonic() < end and demo.poll() is None
            time.sleep(0.05)
        address = opened.read_text()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urllib.request.urlopen(address) as page:
            assert b"<!doctype html>" in page.read()
        body = {"history": ["sku-00001"], "k": 3}
        request = urllib.request.Request(
            f"{address}recommend", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            ids = [each["item_id"] for each in json.load(answer)["items"]]
        assert ids == Retriever.load(BUNDLE).recommend([["sku-00001"]], k=3).ids[0]
        demo.send_signal(signal.SIGINT)
        printed, _ = demo.communicate(timeout=60)
    assert address in printed
    assert demo.returncode in (0, 130)
