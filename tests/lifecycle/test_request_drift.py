"""What logged requests name and a bundle lacks, against counts by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_log import write_log

from twotower.commands.drift import BEYOND
from twotower.commands.main import main
from twotower.lifecycle.impression_log import read_impressions
from twotower.lifecycle.request_drift import request_drift
from twotower.serving.bundle import open_bundle

IDS = ["a", "b", "c", "d"]


def log_of(folder: Path, *requests: dict[str, object]) -> Path:
    return write_log(folder, [{"item_ids": ["a"], "request": json.dumps(request)} for request in requests])


def test_unknown_things_of_requests_are_counted(
    make_bundle: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = make_bundle(IDS)
    odd = log_of(
        tmp_path / "odd", {"history": ["a", "new", "b"]}, {"history": ["newer", "c"], "exclude": ["x", "y", "d"]}
    )
    write_log(odd, [{"item_ids": [], "request": '{"history": ["new"]}'}])  # nothing was shown: not asked
    rows = {row.name: row for row in request_drift(open_bundle(bundle), read_impressions(odd), 0.1)}
    assert rows["unknown ids in histories"][1:4] == (2 / 5, None, 0.1)
    assert rows["unknown ids in exclude"][1:4] == (2 / 2, None, None)
    assert main(["drift", str(bundle), str(odd)]) == BEYOND
    assert "beyond the limit: unknown ids in histories" in capsys.readouterr().out.splitlines()
    known = log_of(tmp_path / "known", {"history": ["a"]}, {"history": []})
    assert main(["drift", str(bundle), str(known)]) == 0
    assert "0 in 1 events" in capsys.readouterr().out
    assert main(["drift", str(odd), str(bundle)]) == 2
    assert "expected two bundles" in capsys.readouterr().err
