"""The run directory: what it holds before training, and what is refused."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composed import composed
from omegaconf import DictConfig, OmegaConf

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import Prepared
from twotower.model.item_tower.features import FeatureItemTower
from twotower.runs import build, histories, layout, run
from twotower.runs.checkpoint import read_checkpoint, write_checkpoint

ITEM_FEATURES = {
    "category.codes": np.array([1, 2, 2, 0, 1], np.int32),
    "category.offsets": np.array([0, 1, 2, 4, 5]),
    "price.values": np.array([[0.5, 0], [1, 0], [-1, 0], [0, 1]], np.float32),
}


def configure(*overrides: str) -> DictConfig:
    """A small model with features of items and of events."""
    small = ["model.dim=8", "model.max_length=3"]
    return composed(*small, "model/item_tower=features", "model.inputs=[device,gap]", *overrides)


def test_a_run_does_not_go_on_with_other_data(begun: Path, make_prepared: Callable[..., Prepared]) -> None:
    with pytest.raises(UserError, match="began with data of fingerprint"):
        run.require_same_data(begun, make_prepared([[1, 2, 3], [3, 2, 1]], train=[3, 1], validation=[0, 1]))


@pytest.fixture
def begun(tmp_path: Path, make_prepared: Callable[..., Prepared]) -> Path:
    """A run directory of a small transformer, with a checkpoint of its fresh weights."""
    prepared = make_prepared(
        [[1, 2, 3, 4], [4, 3, 2], [2, 1, 4, 3, 2]],
        train=[4, 1, 2],
        validation=[0, 2, 1],
        inputs={"gap": [[0, 1, 1, 1], [0, 5, 6], [0, 7, 8, 9, 9]], "device": [[1] * 4, [2, 0, 2], [3] * 5]},
        item_features=ITEM_FEATURES,
    )
    (prepared.path / "audit.json").write_text('{"findings": []}')
    (prepared.path / "work.tmp").write_text("nothing that a run needs")
    config = configure()
    run.write_config(tmp_path, OmegaConf.to_yaml(config, resolve=True))
    run.begin_run(tmp_path, config.model, prepared, np.array([11, 10]))
    model = build.build_model(config.model, prepared.manifest, ITEM_FEATURES)
    state = {"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}}
    write_checkpoint(tmp_path / "checkpoints" / "best.safetensors", state)
    return tmp_path


def test_a_loaded_run_computes_what_its_checkpoint_held(begun: Path) -> None:
    loaded, again = run.load_run(begun), run.load_run(begun)
    history = torch.tensor([[1, 4, 2]]), torch.tensor([[[2, 0], [0, 5], [1, 9]]])
    assert torch.equal(loaded.model(*history), again.model(*history))  # no dropout
    assert list(loaded.model.event_inputs.names) == ["device", "gap"]
    saved = read_checkpoint(begun / "checkpoints" / "best.safetensors")["state_dict"]
    assert torch.equal(loaded.model.item_tower.embedding.weight, saved["model.item_tower.embedding.weight"])


def test_a_loaded_run_has_its_own_item_features(begun: Path) -> None:
    assert isinstance(run.load_run(begun).model.item_tower, FeatureItemTower)
    before = run.load_run(begun).model.encode_items()
    changed = ITEM_FEATURES | {"price.values": ITEM_FEATURES["price.values"] + 1}
    np.savez(begun / "item_features.npz", **changed)
    assert not torch.allclose(run.load_run(begun).model.encode_items(), before)


def test_a_run_directory_holds_what_the_data_was(begun: Path) -> None:
    files = {file.name for file in begun.iterdir()}
    assert files == {
        *("config.yaml", "data.json", "catalogue.parquet", "features.json", "item_features.npz", "audit.json"),
        *("histories.json", "environment.json", "checkpoints"),
    }
    prepared = Path(read_json(begun / "data.json", "a run directory")["path"])
    for name in ("catalogue.parquet", "features.json", "item_features.npz", "audit.json"):
        assert (begun / name).read_bytes() == (prepared / name).read_bytes()


def test_sample_histories_are_the_newest_events_before_the_validation_ends(begun: Path) -> None:
    assert read_json(begun / "histories.json", "a run directory") == {
        "item_index": [[4, 3, 2], [2, 1, 4]],
        "codes": {"device": [[2, 0, 2], [3, 3, 3]], "gap": [[0, 5, 6], [0, 7, 8]]},
        "test": {
            "item_index": [[2, 1, 4], [1, 4, 3]],
            "codes": {"device": [[3] * 3, [3] * 3], "gap": [[0, 7, 8], [7, 8, 9]]},
            "target": [3, 2],
            "session": [0, 0],
        },
    }
    first, second = histories.read_histories(begun, ["device", "gap"])
    assert first.item_index.tolist() == [4, 3, 2]
    assert second.codes.tolist() == [[3, 0], [3, 7], [3, 8]]
    (alone, _) = histories.read_histories(begun, [])
    assert alone.codes.shape == (3, 0)
    queries, target, session = histories.read_test_queries(begun, ["gap"])
    assert [row.item_index.tolist() for row in queries] == [[2, 1, 4], [1, 4, 3]]
    assert queries[1].codes.tolist() == [[7], [8], [9]]
    assert (target.tolist(), session.tolist()) == ([3, 2], [0, 0])


def test_the_sample_is_even_over_the_sessions_that_validate(make_prepared: Callable[..., Prepared]) -> None:
    sessions = [[1 + s % 7, 1 + s // 7] for s in range(2600)]
    prepared = make_prepared(sessions, train=[1] * 2600, validation=[0] * 40 + [1] * 2560)
    tested = np.arange(1, 2600 * 2, 2)
    drawn = histories.sample_histories(prepared, 5, [], tested[::-1])
    sample = drawn["item_index"]
    assert len(drawn["test"]["target"]) == len(set(drawn["test"]["session"])) == 1024, "one event has one query"
    pairs = zip(drawn["test"]["item_index"], drawn["test"]["target"], strict=True)
    assert set(np.diff([(target - 1) * 7 + history[0] - 1 for history, target in pairs])) == {2, 3}
    numbers = [(second - 1) * 7 + first - 1 for first, second in sample]
    assert len(numbers) == 1024 and numbers[0] == 40 and numbers[-1] == 2599
    assert set(np.diff(numbers)) == {2, 3}
    none = histories.sample_histories(make_prepared([[1, 2]]), 5, [], tested[:0])
    assert none == {"item_index": [], "codes": {}, "test": {"item_index": [], "codes": {}, "target": [], "session": []}}


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"item_index": [[1]]}',
        '{"item_index": [[1, 2]], "codes": {"device": [[1]], "gap": [[1, 1]]}}',
        '{"item_index": [[1]], "codes": {"device": [[1]]}}',
        '{"item_index": [[1]], "codes": {"device": [[1]], "gap": []}}',
    ],
)
def test_damaged_histories_are_refused(begun: Path, content: str) -> None:
    (begun / "histories.json").write_text(content)
    with pytest.raises(UserError, match=r"histories.json is damaged"):
        histories.read_histories(begun, ["device", "gap"])


@pytest.mark.parametrize(
    "test",
    [
        "[1]",
        '{"item_index": [[1]], "codes": {}, "target": [], "session": [0]}',
        '{"item_index": [[1]], "codes": {}, "target": [2, 3], "session": [0, 0]}',
        '{"item_index": [[1]], "codes": {}, "target": ["x"], "session": [0]}',
    ],
)
def test_damaged_test_queries_are_refused_and_earlier_runs_have_none(begun: Path, test: str) -> None:
    (begun / "histories.json").write_text(f'{{"item_index": [[1]], "codes": {{}}, "test": {test}}}')
    with pytest.raises(UserError, match=r"histories.json is damaged"):
        histories.read_test_queries(begun, [])
    (begun / "histories.json").write_text('{"item_index": [[1]], "codes": {"gap": [[1]]}}')
    assert histories.read_test_queries(begun, ["gap"]).histories == []


def test_an_input_that_the_data_lacks_is_refused_by_the_nearest_name(make_prepared: Callable[..., Prepared]) -> None:
    prepared = make_prepared([[1, 2]], inputs={"gap": [[0, 1]], "device": [[1, 1]]})
    with pytest.raises(UserError, match=r"model.inputs has devise; .*gap, device; did you mean 'device'"):
        build.input_sizes(configure("model.inputs=[gap,devise]").model, prepared.manifest)
    with pytest.raises(UserError, match=r"have none"):
        build.input_sizes(configure("model.inputs=[gap]").model, make_prepared([[1, 2]]).manifest)


def test_a_tower_that_learns_from_times_is_given_them(make_prepared: Callable[..., Prepared]) -> None:
    timed = configure("model.user_tower.time_bias=true", "model.inputs=[gap]")
    times = [[5_000, 5_999, 68_000, 69_000], [7_000_000, 7_000_001]]
    prepared = make_prepared(
        [[1, 2, 3, 4], [2, 1]], [1, 1], [3, 0], timestamps=times, inputs={"gap": [[0, 1, 2, 3], [0, 1]]}
    )
    sizes = build.input_sizes(timed.model, prepared.manifest)
    assert sizes == {"gap": 4, "time": 10**11}
    assert build.build_model(timed.model, prepared.manifest, ITEM_FEATURES).event_inputs.names == ["gap", "time"]
    sample = histories.sample_histories(prepared, 3, list(sizes), np.array([5]))
    assert sample.pop("test")["codes"] == {"gap": [[0]], "time": [[1]]}
    assert sample == {"item_index": [[2, 3, 4]], "codes": {"gap": [[1, 2, 3]], "time": [[1, 64, 65]]}}
    with pytest.raises(UserError, match=r"time_bias=true needs times.*set it to false"):
        build.input_sizes(
            configure("model.user_tower.time_bias=true", "model.inputs=[]").model, make_prepared([[1]]).manifest
        )
    at_a_time = configure("model.query_time=true", "model.inputs=[]").model
    assert build.input_sizes(at_a_time, prepared.manifest) == {"time": 10**11}
    model = build.build_model(at_a_time, prepared.manifest, ITEM_FEATURES)
    assert model.query_time and model.user_tower.time_bias is not None and model.pointer.age is not None
    model = build.build_model(timed.model, prepared.manifest, ITEM_FEATURES)
    assert not model.query_time and model.pointer.age is None, "as before: age comes with the time of the query alone"
    for lacking in ("model/user_tower=gru", "model.user_tower.time_bias=false"):
        with pytest.raises(UserError, match=r"query_time=true needs.*user_tower=transformer"):
            build.input_sizes(configure("model.query_time=true", "model.inputs=[]", lacking).model, prepared.manifest)
    with pytest.raises(UserError, match=r"model.inputs has time"):  # by its own switch alone
        build.input_sizes(configure("model.inputs=[time]").model, prepared.manifest)


def test_untied_vectors_of_histories_are_of_a_tower_of_their_own(make_prepared: Callable[..., Prepared]) -> None:
    prepared = make_prepared([[1, 2], [2, 4]], inputs={"gap": [[0, 1]] * 2, "device": [[1, 2]] * 2})
    config = configure("model.tied=false", "model/residual=none")
    model = build.build_model(config.model, prepared.manifest, ITEM_FEATURES).eval()
    assert not torch.equal(model.encode_items(), model.encode_history_items())
    tied = build.build_model(configure().model, prepared.manifest, ITEM_FEATURES).eval()
    assert torch.equal(tied.encode_items(), tied.encode_history_items())
    with pytest.raises(UserError, match="model/residual=none"):
        build.build_model(configure("model.tied=false").model, prepared.manifest, ITEM_FEATURES)


@pytest.mark.parametrize("sizes", ["[8]", "[0,4]", "[4,2,4]"])
def test_sizes_that_cannot_serve_alone_are_refused(make_prepared: Callable[..., Prepared], sizes: str) -> None:
    prepared = make_prepared([[1, 2], [2, 4]], inputs={"gap": [[0, 1]] * 2, "device": [[1, 2]] * 2})
    with pytest.raises(UserError, match="expected different sizes"):
        build.build_model(configure(f"model.matryoshka={sizes}").model, prepared.manifest, ITEM_FEATURES)


def test_the_refit_model_goes_before_the_best_and_the_best_before_the_last(begun: Path) -> None:
    folder = begun / "checkpoints"
    (folder / "last.safetensors").write_bytes(b"")
    assert layout.checkpoint_of(begun).name == "best.safetensors"
    (folder / "refit.safetensors").write_bytes(b"")
    assert layout.checkpoint_of(begun).name == "refit.safetensors"


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("checkpoints/best.safetensors", b"not a checkpoint", "best.safetensors is missing, damaged"),
        ("checkpoints/best.safetensors", pickle.dumps(Malicious(), protocol=2), "best.safetensors is missing, damaged"),
        ("checkpoints/best.safetensors", None, "has no checkpoint yet"),
        ("config.yaml", None, "is not a run directory"),
        ("data.json", b"{", "data.json is damaged"),
        ("data.json", None, "data.json is missing"),
        ("item_features.npz", None, "item_features.npz is missing"),
        ("item_features.npz", b"PK", "item_features.npz is missing or damaged"),
    ],
)
def test_a_damaged_run_is_refused_by_name(begun: Path, file: str, content: bytes | None, expected: str) -> None:
    (begun / file).unlink()
    if content is not None:
        (begun / file).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        run.load_run(begun)


def test_weights_of_another_size_are_refused(begun: Path) -> None:
    text = (begun / "config.yaml").read_text().replace("dim: 8", "dim: 16")
    (begun / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"has other weights than .*train again"):
        run.load_run(begun)


def test_an_input_is_named_once() -> None:
    config = OmegaConf.create({"model": {"inputs": ["gap", "gap"]}})
    with pytest.raises(UserError, match="names one input twice"):
        build.input_sizes(config.model, {"inputs": {"gap": 64}})


@pytest.mark.parametrize("change", ["a setting that is gone", "a class that is gone"])
def test_a_run_of_another_version_is_refused(begun: Path, change: str) -> None:
    config = OmegaConf.load(begun / "config.yaml")
    if change == "a setting that is gone":
        del config.model["tied"]
    else:
        config.model.user_tower["_target_"] = "twotower.model.gone.Tower"
    OmegaConf.save(config, begun / "config.yaml")
    with pytest.raises(UserError, match="another version of this program"):
        run.load_run(begun)


def test_a_run_of_version_0_1_names_its_item_tower_by_the_folder(begun: Path) -> None:
    config = OmegaConf.load(begun / "config.yaml")
    new = config.model.item_tower["_target_"]
    config.model.item_tower["_target_"] = f"twotower.model.item_tower.{new.rpartition('.')[2]}"
    OmegaConf.save(config, begun / "config.yaml")
    assert type(run.load_run(begun).model.item_tower).__name__ == new.rpartition(".")[2]


@pytest.mark.parametrize(
    ("overrides", "num_items", "expected"),
    [
        ([], 22_026, 0.1),  # e ** 10
        ([], 1, 1 / math.log(10)),
        (["model.temperature=0.3"], 22_026, 0.3),
        (["model.normalize=false"], 22_026, 1.0),
    ],
)
def test_the_temperature_follows_the_catalogue(overrides: list[str], num_items: int, expected: float) -> None:
    settings = composed(*overrides).model
    assert build.temperature_of(settings, num_items) == pytest.approx(expected, abs=1e-6)
    model = build.build_model(settings, {"num_items": num_items, "inputs": {"gap": 64}}, {})
    assert model.pointer is not None and model.pointer.temperature == pytest.approx(expected, abs=1e-6)
