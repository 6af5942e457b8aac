"""Whether a model has learnt from the test of the data that it is trained on next."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from twotower.core.errors import UserError
from twotower.runs.run import Run
from twotower.training.overlap import learnt_until, require_unlearnt_test


@pytest.mark.parametrize(
    ("until", "split", "said"),
    [
        (10, {"kind": "temporal", "validation_start": 10, "test_start": 20}, ""),
        (11, {"kind": "temporal", "validation_start": 10, "test_start": 20}, "its figures are too good"),
        (20, {"kind": "temporal", "validation_start": 10, "test_start": 20}, "its figures are too good"),
        (None, {"kind": "temporal", "validation_start": 10, "test_start": 20}, "can't be told"),
        (5, {"kind": "predefined"}, "can't be told"),
        (21, {"kind": "temporal", "validation_start": 10, "test_start": 20}, None),
    ],
)
def test_a_model_that_has_learnt_from_the_test_is_refused(
    until: int | None, split: dict[str, Any], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = {"split": split, "timestamp_unit": "ms"}
    if said is None:
        with pytest.raises(
            UserError, match=r"learnt from events until 1970.*tested on what it knows.*split\.test_days"
        ):
            require_unlearnt_test("RUN", until, manifest)
        return
    require_unlearnt_test("RUN", until, manifest)
    assert said in caplog.text if said else not caplog.records
    caplog.clear()
    require_unlearnt_test("RUN", until, {**manifest, "timestamp_unit": "ordinal"})
    assert "can't be told" in caplog.text


@pytest.mark.parametrize("refitted", [False, True])
@pytest.mark.parametrize("before", ["nothing", None, 5, 25])
def test_until_when_a_model_has_learnt(tmp_path: Path, refitted: bool, before: Any) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ("refit.safetensors" if refitted else "best.safetensors")).touch()
    if before != "nothing":
        (tmp_path / "warm_start.json").write_text(json.dumps({"learnt_until": before}))
    split = {"kind": "temporal", "validation_start": 10, "test_start": 20}
    data = {"split": split, "timestamp_unit": "ms"}
    run = Run(tmp_path, OmegaConf.create(), data, {}, cast(Any, None))
    own = 20 if refitted else 10
    assert learnt_until(run) == (own if before == "nothing" else None if before is None else max(own, before))
    assert learnt_until(replace(run, data={**data, "split": {"kind": "predefined"}})) is None
    assert learnt_until(replace(run, data={**data, "timestamp_unit": "ordinal"})) is None
