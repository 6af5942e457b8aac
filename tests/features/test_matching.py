"""Codes and numbers of two encoders: what matches means the same, against encoding each value with both."""

from typing import Any

import numpy as np
import pytest

from twotower.features.encoder import encode, fit, form
from twotower.features.matching import NONE, matching_codes, matching_numbers


def texts(seed: int) -> list[Any]:
    random = np.random.default_rng(seed)
    return [f"brand {random.integers(seed, 12 + seed)}" for _ in range(30)] + [None]


@pytest.mark.parametrize("spare", [1, 3])
@pytest.mark.parametrize("kind", ["categorical", "multi"])
def test_a_category_matches_the_code_that_the_other_gives_it(kind: str, spare: int) -> None:
    spec = {"kind": kind, "out_of_vocabulary": spare}
    new, old = fit("f", spec, texts(3)), fit("f", spec, texts(0))
    found = matching_codes(new, old)
    assert len(found) == form(new)["size"] and found[: 1 + spare].tolist() == list(range(1 + spare))
    for name in new["vocabulary"]:
        code = int(encode(new, [name])[0][0])
        expected = int(encode(old, [name])[0][0]) if name in old["vocabulary"] else NONE
        assert found[code] == expected
    assert (found == NONE).any() and (found > spare).any(), "some are new, some are known"
    other_spare = fit("f", {**spec, "out_of_vocabulary": 2}, texts(0))
    assert matching_codes(new, other_spare)[: 1 + spare].tolist() == [0] + [NONE] * spare


def test_a_bucket_matches_the_one_in_which_its_least_number_is() -> None:
    new = {"kind": "numeric", "edges": [2.0, 5.0, 9.0]}
    old = {"kind": "numeric", "edges": [1.0, 5.0]}
    found = matching_codes(new, old)
    least = {2: 2.0, 3: 5.0, 4: 9.0}
    assert found[0] == 0 and found[1] == encode(old, [np.nextafter(2.0, 0)])[0][0]
    assert [found[code] for code in least] == [int(encode(old, [number])[0][0]) for number in least.values()]
    assert matching_codes({"kind": "numeric", "edges": []}, old).tolist()[0] == 0


def test_texts_match_where_they_are_hashed_alike_and_kinds_never_mix() -> None:
    text = fit("f", {"kind": "text", "buckets": 20}, ["a"])
    assert matching_codes(text, text).tolist() == list(range(21))
    assert (matching_codes(text, {**text, "buckets": 30})[1:] == NONE).all()
    assert (matching_codes(text, {"kind": "numeric", "edges": [1.0]}) == NONE).all()
    assert (matching_codes({"kind": "numeric", "edges": [1.0]}, {"kind": "numeric", "log": False}) == NONE).all()


@pytest.mark.parametrize("log", [False, True])
def test_weights_of_numbers_are_scaled_to_the_same_slope(log: bool) -> None:
    spec = {"kind": "numeric", "standardise": True, "log": log}
    new, old = fit("price", spec, [1.0, 5.0, 11.0, 40.0]), fit("price", spec, [2.0, 3.0, 7.0])
    factor = matching_numbers(new, old)
    assert factor is not None
    weight, prices = np.array([0.7, -0.2]), [3.0, 4.0, 9.0, None]
    before = encode(old, prices).values @ weight
    after = encode(new, prices).values @ (weight * factor)
    assert np.diff(after[:3]) == pytest.approx(np.diff(before[:3]), rel=1e-5)
    assert after[3] == pytest.approx(before[3]), "null"
    assert matching_numbers(new, {**old, "log": not log}) is None


def test_vectors_match_by_size_and_encoder() -> None:
    new, old = fit("v", {"kind": "vector"}, [[3.0, 4.0]]), fit("v", {"kind": "vector"}, [[0.0, 2.0]])
    factor = matching_numbers(new, old)
    assert factor is not None
    vector, weight = [[1.0, 5.0]], np.array([0.3, 0.4, 1.0])
    assert encode(new, vector).values @ (weight * factor) == pytest.approx(encode(old, vector).values @ weight)
    assert matching_numbers(new, fit("v", {"kind": "vector"}, [[1.0, 2.0, 3.0]])) is None
