"""Golden histories of a changed catalogue, with a tower that NumPy can follow."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from twotower.serving import golden_answers


def fake_bundle(inputs: dict[str, int]) -> Any:
    """Its user vector is the sum of the events' vectors, and of their codes on the first dimension."""

    def run(_: Any, feed: dict[str, Any]) -> list[Any]:
        users = feed["history_vectors"].sum(axis=1)[:, :3]
        if inputs:
            valid = np.arange(feed["event_inputs"].shape[1]) <= feed["newest"][:, None]
            users[:, 0] += (feed["event_inputs"].sum(axis=2) * valid).sum(axis=1)
        return [users.astype(np.float32)]

    tower = SimpleNamespace(
        run=run,
        get_inputs=list,
        get_outputs=lambda: [SimpleNamespace(name="user_vector", shape=["batch", 3])],
    )
    return SimpleNamespace(inputs=inputs, manifest={"max_length": 2}, tower=tower)


@pytest.mark.parametrize("inputs", [{}, {"a": 9, "b": 9}])
def test_answers_are_the_towers(inputs: dict[str, int]) -> None:
    random = np.random.default_rng(0)
    ids = ["v", "w", "x", "y", "z"]
    vectors, histories = random.normal(size=(5, 3)).astype("f4"), random.normal(size=(5, 4)).astype("f4")
    events = [["gone", "x"], ["gone"], ["z", "gone", "v", "y"]]
    if inputs:
        events = [[{"item_id": i, "codes": {"b": j, "a": 2}} for j, i in enumerate(row)] for row in events]
    before = {"k": 3, "histories": events, "ids": [], "scores": [], "origin": {"similarity": "dot"}}
    found = golden_answers.updated_golden(before, fake_bundle(inputs), pa.array(ids), vectors, histories)
    assert (found["k"], found["origin"]) == (3, before["origin"])
    assert found["histories"] == [events[0][1:], [events[2][0], *events[2][2:]]]
    users = [histories[2, :3], histories[0, :3] + histories[3, :3]]  # the newest two count
    if inputs:
        users = [user + np.array([codes, 0, 0]) for user, codes in zip(users, (2 + 1, 2 + 2 + 2 + 3), strict=True)]
    for user, answer, scores in zip(users, found["ids"], found["scores"], strict=True):
        expected = sorted(range(5), key=lambda row, user=user: -float(vectors[row] @ user))[:3]
        assert answer == [ids[row] for row in expected]
        np.testing.assert_allclose(scores, vectors[expected] @ user, rtol=1e-5)


@pytest.mark.parametrize("inputs", [{}, {"a": 9}])
def test_where_no_history_is_left_there_is_one_of_the_first_item(inputs: dict[str, int]) -> None:
    event = {"item_id": 5, "codes": {"a": 1}} if inputs else 5
    vectors = np.eye(3, 4, dtype="f4")
    found = golden_answers.updated_golden(
        {"k": 9, "histories": [[event]]}, fake_bundle(inputs), pa.array([7, 8, 9]), vectors[:, :3], vectors
    )
    assert found["histories"] == [[{"item_id": 7, "codes": {"a": 0}}]] if inputs else [[7]]
    assert (found["k"], found["ids"]) == (3, [[7, 8, 9]])
