"""Events of other data in the numbers of a run, by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from twotower.core.errors import UserError
from twotower.core.files import read_json, write_json
from twotower.core.schema import FEATURES_FILE, Prepared
from twotower.evaluation.reindex import ModelVocabulary, reindex_to_model, vocabulary_of_run
from twotower.runs.run import Run

SESSIONS = [[1, 2, 3], [4, 4], [3, 1, 5, 2]]  # items of the other data: item-1 .. item-5


def trained(prepared: Prepared, *inputs: str) -> ModelVocabulary:
    """What a run on `prepared` knows; its folder is the prepared one, which has the same files."""
    config = OmegaConf.create({"model": {"inputs": list(inputs), "user_tower": {}}})
    # No model: what is tested never asks for one.
    run = Run(prepared.path, config, dict(prepared.manifest), {}, None)  # type: ignore[arg-type] # see above
    return vocabulary_of_run(run)


@pytest.fixture
def other(make_prepared) -> Prepared:
    return make_prepared(
        SESSIONS, [1, 0, 2], [1, 0, 1], types=[[0, 1, 1], [0, 0], [1, 0, 1, 1]], event_types=("view", "buy")
    )


def with_ids(prepared: Prepared, ids: list[object]) -> Prepared:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"item_id": ids, "train_count": [1] * len(ids)}), prepared.path / "catalogue.parquet")
    return prepared


def test_items_are_matched_by_their_ids_and_unknown_ones_are_left_out(make_prepared, other: Prepared) -> None:
    run = trained(with_ids(make_prepared([[1, 2, 3]]), ["item-3", "item-9", "item-1"]))
    found, position = reindex_to_model(run, other)
    assert found.item_index.tolist() == [3, 1, 1, 3]  # of [1 2 3] [4 4] [3 1 5 2]: 1, 3, 3, 1
    assert position.tolist() == [0, 2, 5, 6]
    assert found.offsets.tolist() == [0, 2, 2, 4]
    assert found.train_end.tolist() == [1, 2, 4] and found.validation_end.tolist() == [1, 2, 4]
    assert found.event_type.tolist() == [0, 1, 1, 0]
    assert found.num_items == 3 and found.path == run.path and found.event_types == ["view", "buy"]


def test_the_same_catalogue_changes_nothing(make_prepared, other: Prepared) -> None:
    found, position = reindex_to_model(trained(make_prepared(SESSIONS)), other)
    np.testing.assert_array_equal(found.item_index, other.item_index)
    np.testing.assert_array_equal(found.offsets, other.offsets)
    assert position.tolist() == list(range(9))


def test_numbers_and_texts_are_one_kind_of_id(make_prepared) -> None:
    run = trained(with_ids(make_prepared([[1, 2]]), [7, 8]))
    found, _ = reindex_to_model(run, with_ids(make_prepared([[1, 2]]), ["8", "7"]))
    assert found.item_index.tolist() == [2, 1]


def test_no_common_item_is_refused(make_prepared, other: Prepared) -> None:
    with pytest.raises(UserError, match="no item in common"):
        reindex_to_model(trained(with_ids(make_prepared([[1, 2]]), ["x", "y"])), other)


def test_inputs_must_mean_the_same(make_prepared, other: Prepared) -> None:
    typed = {"inputs": {"event_type": [[1, 1, 1]], "device": [[1, 2, 1]]}}
    run = trained(make_prepared([[1, 2, 3]], **typed), "device")
    run = run._replace(encoders={"device": {"vocabulary": ["a", "b"]}})
    with pytest.raises(UserError, match="input device has other codes"):
        reindex_to_model(run, other)
    _set_events(other.path, {"device": {"vocabulary": ["a", "b"]}})
    reindex_to_model(run, other)


@pytest.mark.parametrize(
    ("model_types", "names", "codes", "inputs", "new"),
    [  # the data has view and buy: [view buy buy] [view view] [buy view buy buy]
        ("buy view", "buy view", "100110100", "211221211", None),
        ("cart buy", "cart buy view", "211221211", "022002022", "44.4%.*'view' .4.; it knows cart, buy"),
        ("event", "event view buy", "122112122", "000000000", "100.0%.*'view' .4., 'buy' .5.;"),
        ("a view b buy", "a view b buy", "133113133", "244224244", None),
    ],
)
def test_event_types_are_matched_by_their_names(
    make_prepared,
    other: Prepared,
    caplog: pytest.LogCaptureFixture,
    model_types: str,
    names: str,
    codes: str,
    inputs: str,
    new: str | None,
) -> None:
    items = with_ids(make_prepared([[1, 2, 3]], event_types=model_types.split()), [f"item-{n}" for n in range(1, 6)])
    found, _ = reindex_to_model(trained(items)._replace(inputs=["event_type"]), other)
    assert found.event_types == names.split()
    assert "".join(map(str, found.event_type)) == codes
    assert "".join(map(str, found.inputs["event_type"])) == inputs
    assert re.search(new, caplog.text) if new else not caplog.text


def test_a_model_that_does_not_see_types_says_nothing_of_new_ones(
    make_prepared, other: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    found, _ = reindex_to_model(trained(make_prepared(SESSIONS, event_types=["event"])), other)
    assert found.event_types == ["event", "view", "buy"]
    assert not caplog.text


def test_a_bounce_is_the_event_that_it_was(make_prepared, other: Prepared) -> None:
    """The model learnt of a bounce as of a view; so it gets one, whether the data calls it so or not."""
    run = trained(make_prepared(SESSIONS))
    run = run._replace(event_types={"bounce": 3, "buy": 2, "view": 3}, inputs=["event_type"])
    found, _ = reindex_to_model(run, other)
    assert found.inputs["event_type"].tolist() == [3, 2, 2, 3, 3, 2, 3, 2, 2]


def _set_events(path: Path, encoders: dict[str, object]) -> None:
    write_json(path / FEATURES_FILE, {**read_json(path / FEATURES_FILE, ""), "events": encoders})
