"""Features: values to codes and numbers, against loops over values, pieces and characters."""

import json
import math
import subprocess
import sys
import unicodedata
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pytest

from twotower.core.errors import UserError
from twotower.features import Bags, Dense, check_spec, encode, encode_single, fit, form, raw_values


def bags_of(encoded: Bags | Dense) -> list[list[int]]:
    assert isinstance(encoded, Bags)
    assert encoded.codes.dtype == np.int32
    assert encoded.offsets.dtype == np.int64
    return [encoded.codes[a:b].tolist() for a, b in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)]


def rows_of(encoded: Bags | Dense) -> list[list[float]]:
    assert isinstance(encoded, Dense)
    assert encoded.values.dtype == np.float32
    return encoded.values.tolist()


def spec(kind: str, **settings: Any) -> dict[str, Any]:
    result = {"kind": kind, **settings}
    check_spec("colour", result, single=False)
    return result


EVERY_KIND: list[tuple[dict[str, Any], list[Any]]] = [
    (spec("categorical", min_count=2, out_of_vocabulary=3), ["a", "b", None, "a", 3, 3.0, True, "é", "a"]),
    (spec("multi", separator="|"), ["x|y", None, ["y", 3, None], "", [], "z| x ", "|"]),
    (spec("numeric", buckets=4), [1, 2.5, None, "3", 0.1, float("nan"), 1 / 3, -7, "?"]),
    (spec("numeric", edges=[-1, 0.1, 5]), [1, None, 0.1, 100, -2.0]),
    (spec("numeric", standardise=True), [1, None, 0.1, 100, -2.0]),
    (spec("price"), [10, 20, None, 0, 1e9]),
    (spec("price", standardise=True), [10, 20, None, 0, 1e9]),
    (spec("text"), ["Hello, World", None, "", "ﬁne  Straße", "x", 42]),
    (spec("text", ngrams=[2], buckets=7), ["aa", None, "bcd"]),
    (spec("vector"), [[1, 2, 3.5], None, [0, 0, 0], [1, None, 2], np.array([1.0, 2.0, float("inf")])]),
]
each_kind = pytest.mark.parametrize(("declared", "values"), EVERY_KIND)


@each_kind
def test_an_encoder_is_plain_json(declared: dict[str, Any], values: list[Any]) -> None:
    encoder = fit("colour", declared, values)
    again = json.loads(json.dumps(encoder))
    assert again == encoder
    for one, other in zip(encode(encoder, values), encode(again, values), strict=True):
        assert one.tobytes() == other.tobytes()


@each_kind
def test_codes_and_numbers_lie_within_the_form(declared: dict[str, Any], values: list[Any]) -> None:
    encoder = fit("colour", declared, values)
    encoded = encode(encoder, [*values, "unseen", -1e300, ["unseen"]])
    if isinstance(encoded, Bags):
        assert form(encoder)["form"] == "bags"
        assert 0 <= encoded.codes.min() <= encoded.codes.max() < form(encoder)["size"]
        assert (np.diff(encoded.offsets) > 0).all(), "each value has a code"
        assert encoded.offsets[-1] == len(encoded.codes)
    else:
        assert form(encoder) == {"form": "dense", "size": encoded.values.shape[1]}
        assert np.isfinite(encoded.values).all()


@each_kind
def test_a_value_is_encoded_alone_as_among_others(declared: dict[str, Any], values: list[Any]) -> None:
    encoder = fit("colour", declared, values)
    together = encode(encoder, values)
    alone = [encode(encoder, [value]) for value in values]
    if isinstance(together, Bags):
        assert bags_of(together) == [bags_of(one)[0] for one in alone]
        assert bags_of(encode(encoder, [])) == []
    else:
        assert rows_of(together) == [rows_of(one)[0] for one in alone]
        assert encode(encoder, [])[0].shape == (0, form(encoder)["size"])


@each_kind
def test_null_is_a_value_of_its_own(declared: dict[str, Any], values: list[Any]) -> None:
    encoder = fit("colour", declared, values)
    encoded = encode(encoder, [None])
    if isinstance(encoded, Bags):
        assert bags_of(encoded) == [[0]]
        known = [value for value in values if value not in (None, "", "?", [], "|") and value == value]
        assert all(0 not in bag for bag in bags_of(encode(encoder, known)))
    else:
        assert rows_of(encoded) == [[*[0.0] * (form(encoder)["size"] - 1), 1.0]]


@each_kind
def test_nothing_but_nulls_is_no_mistake(declared: dict[str, Any], values: list[Any]) -> None:
    for nothing in ([None, None], []):
        encoder = fit("colour", declared, nothing)
        assert len(encode(encoder, [None])[0]) == 1
        assert form(encoder)["size"] >= 1


@each_kind
def test_the_order_of_values_and_counts_for_repeats_change_nothing(declared: dict[str, Any], values: list[Any]) -> None:
    encoder = fit("colour", declared, values * 3)
    assert fit("colour", declared, (values * 3)[::-1]) == encoder
    assert fit("colour", declared, values, counts=[3] * len(values)) == encoder


def test_categories_are_what_a_loop_says() -> None:
    random = np.random.default_rng(0)
    values = [None if v == 0 else f"c{v}" for v in random.zipf(1.5, size=500) % 60]
    encoder = fit("colour", spec("categorical", min_count=4, out_of_vocabulary=3), values)
    times = Counter(v for v in values if v is not None)
    kept = sorted(v for v, n in times.items() if n >= 4)
    assert 3 < len(kept) < len(times)
    expected = []
    for value in [*values, "never", "seen"]:
        if value is None:
            expected.append(0)
        elif value in kept:
            expected.append(4 + kept.index(value))
        else:
            expected.append(1 + zlib.crc32(value.encode()) % 3)
    assert encode_single(encoder, [*values, "never", "seen"]).tolist() == expected
    assert bags_of(encode(encoder, [*values, "never", "seen"])) == [[code] for code in expected]
    assert form(encoder) == {"form": "bags", "size": 4 + len(kept)}


def test_one_text_is_one_category_whatever_its_type() -> None:
    values = [
        3,
        "3",
        3.0,
        np.int32(3),
        np.float32(3),
        True,
        np.True_,
        "true",
        2.5,
        "2.5",
        -0.0,
        0,
        10**20,
        "1" + "0" * 20,
    ]
    encoder = fit("colour", spec("categorical"), values)
    assert encoder["vocabulary"] == ["0", "1" + "0" * 20, "2.5", "3", "true"]
    assert encode_single(encoder, values).tolist() == [5, 5, 5, 5, 5, 6, 6, 6, 4, 4, 2, 2, 3, 3]
    unreadable = [None, "", math.nan, math.inf, [3], {"a": 3}]
    assert encode_single(encoder, unreadable).tolist() == [0] * 6


def test_unseen_values_are_told_from_null_and_share_their_codes() -> None:
    encoder = fit("colour", spec("categorical", out_of_vocabulary=4), ["a", "b"])
    unseen = encode_single(encoder, [f"new {i}" for i in range(200)])
    assert set(unseen.tolist()) == {1, 2, 3, 4}
    assert encode_single(encoder, ["a", "b", None]).tolist() == [5, 6, 0]


def test_several_values_are_what_a_loop_says() -> None:
    values = ["a|b", ["b", "c", "b"], None, "c", [], ["zz", 3.0, None, "a"], "a| b||", ("b",), np.array(["c", "a"])]
    encoder = fit("colour", spec("multi", separator="|", min_count=2), values)
    assert encoder["vocabulary"] == ["a", "b", "c"]  # in 4, 4 and 3 of the values; zz and 3 in one each
    assert bags_of(encode(encoder, values)) == [[2, 3], [3, 4], [0], [4], [0], [1, 2, 1], [2, 3], [3], [2, 4]]
    assert bags_of(encode(encoder, ["x|y", ["a", "x"]])) == [[1, 1], [2, 1]]
    whole = fit("colour", spec("multi"), ["a|b", ["a|b", "c"]])
    assert whole["vocabulary"] == ["a|b", "c"], "without a separator a text is one value"


@pytest.mark.parametrize("buckets", [2, 3, 7, 50])
@pytest.mark.parametrize("seed", range(6))
def test_quantile_buckets_are_never_empty_and_about_equal(buckets: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = [random.normal(size=400), random.zipf(2, size=400), random.integers(0, 3, size=400)][seed % 3].tolist()
    encoder = fit("colour", spec("numeric", buckets=buckets), [*values, None, math.nan, math.inf, "x"])
    codes = encode_single(encoder, values)
    edges = encoder["edges"]
    assert codes.tolist() == [1 + sum(edge <= value for edge in edges) for value in values]
    assert set(codes.tolist()) == set(range(1, len(edges) + 2)), "no bucket is empty"
    assert form(encoder) == {"form": "bags", "size": len(edges) + 2}
    assert encode_single(encoder, [None, math.nan, math.inf, "x", []]).tolist() == [0] * 5
    if seed % 3 == 0:  # values that all differ
        assert len(edges) == buckets - 1
        counts = np.bincount(codes)[1:]
        assert counts.max() - counts.min() <= 1


def test_quantiles_by_hand() -> None:
    values = [1, 1, 1, 1, 1, 2, 3, 4]
    assert fit("c", spec("numeric", buckets=2), values)["edges"] == [2.0]
    assert fit("c", spec("numeric", buckets=4), values)["edges"] == [2.0, 3.0]
    assert fit("c", spec("numeric", buckets=8), values)["edges"] == [2.0, 3.0, 4.0]
    assert fit("c", spec("numeric", buckets=2), [1, 2, 3], counts=[1, 1, 10])["edges"] == [3.0]
    assert fit("c", spec("numeric", buckets=2), [1, 2, 3], counts=[10, 1, 1])["edges"] == [2.0]
    assert fit("c", spec("numeric", buckets=4), [7.5] * 9)["edges"] == []
    assert len(fit("c", spec("price"), list(range(1000)))["edges"]) == 19


def test_given_edges_are_taken_as_they_are() -> None:
    encoder = fit("c", spec("numeric", edges=[0, 10]), [5, None])
    assert encode_single(encoder, [-1, 0, 9.99, 10, 1e300, "10", None]).tolist() == [1, 2, 2, 3, 3, 3, 0]


@pytest.mark.parametrize("log", [False, True])
def test_standardised_numbers_have_mean_zero_and_deviation_one(log: bool) -> None:
    random = np.random.default_rng(1)
    values = [*random.normal(50, 20, size=300).tolist(), *[None] * 9, math.inf, "x"]
    encoder = fit("c", spec("numeric", standardise=True, log=log), values)
    rows = np.array(rows_of(encode(encoder, values)))
    assert rows[:300, 0].mean() == pytest.approx(0, abs=1e-6)
    assert rows[:300, 0].std() == pytest.approx(1, abs=1e-6)
    assert rows[:, 1].tolist() == [0.0] * 300 + [1.0] * 11
    assert not rows[300:, 0].any()
    raw = [math.copysign(math.log1p(abs(v)), v) if log else v for v in values[:300]]
    expected = (np.array(raw) - np.mean(raw)) / np.std(raw)
    assert rows[:300, 0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_numbers_that_are_all_alike_or_enormous_are_finite() -> None:
    for values in ([4, 4, 4], [0.0], [1e308, -1e308, 1e308], [5e-324, 0]):
        encoder = fit("c", spec("numeric", standardise=True), values)
        assert np.isfinite(encode(encoder, values)[0]).all()
    assert rows_of(encode(fit("c", spec("numeric", standardise=True), [4, 4]), [4])) == [[0.0, 0.0]]
    far = encode(fit("c", spec("numeric", standardise=True), [1, 3]), [12, 13, -1e300, 2])
    assert rows_of(far) == [[10.0, 0.0], [10.0, 0.0], [-10.0, 0.0], [0.0, 0.0]], "no more than ten deviations"


def test_vectors_keep_their_direction_and_are_about_one_long() -> None:
    values = [[3, 4], None, [0, 15.0], [0, 0], [math.nan, 1], np.array([6, 8])]
    rows = rows_of(encode(fit("c", spec("vector"), values), values))
    # Lengths of 5, 15 and 10: 10 on average.
    expected = [[0.3, 0.4, 0], [0, 0, 1], [0, 1.5, 0], [0, 0, 0], [0, 0, 1], [0.6, 0.8, 0]]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def ngrams_by_loop(text: str, lengths: list[int], buckets: int) -> list[int]:
    """One text's codes, character by character, in Python's own integers."""
    words = unicodedata.normalize("NFKC", text).lower().split()
    text = (" " + " ".join(words) + " ").ljust(max(lengths))
    codes = []
    for n in lengths:
        for start in range(len(text) - n + 1):
            value = n
            for character in text[start : start + n]:
                value = (value * 0x9E3779B97F4A7C15 + ord(character)) % 2**64
            value = (value ^ (value >> 32)) * 0x9E3779B97F4A7C15 % 2**64
            codes.append(1 + (value >> 32) % buckets)
    return codes


def test_ngrams_equal_a_loop_over_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.features.ngrams.TEXTS_AT_ONCE", 4)
    texts = ["Red Shoes", "x", "ﬁne", "STRASSE straße", "日本語のテキスト", "a\tb\n c", "👟 new", "ab", "0" * 50, "İ"]
    for lengths, buckets in (([3, 4], 4096), ([1], 5), ([2, 5, 9], 100)):
        encoder = fit("c", spec("text", ngrams=lengths, buckets=buckets), [])
        expected = [ngrams_by_loop(text, lengths, buckets) for text in texts]
        assert bags_of(encode(encoder, texts)) == expected
        assert bags_of(encode(encoder, [None, texts[0], "  ", texts[1], 12])) == [
            [0], expected[0], [0], expected[1], ngrams_by_loop("12", lengths, buckets),
        ]  # fmt: skip


def test_ngrams_of_one_text_are_the_same_in_any_process_and_spread_over_the_buckets() -> None:
    code = (
        "from twotower.features import encode; print(*encode({'kind':'text','ngrams':[3],'buckets':997}, ['Shoe'])[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [int(c) for c in done.stdout.split()] == ngrams_by_loop("shoe", [3], 997)
    words = [f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyz0123"]
    codes = encode({"kind": "text", "ngrams": [5], "buckets": 64}, words)[0]  # " abc ", one a word
    counts = np.bincount(codes, minlength=65)[1:]
    assert len(codes) == 1000
    assert ((counts - 1000 / 64) ** 2 / (1000 / 64)).sum() < 63 + 5 * math.sqrt(2 * 63), "chi-square of 63 degrees"


def test_texts_share_the_codes_of_what_they_share() -> None:
    encoder = fit("c", spec("text", buckets=100_000), [])
    one, other, far = (set(bag) for bag in bags_of(encode(encoder, ["Red shoe", "SHOE, red", "green hat"])))
    assert len(one & other) > 5
    assert len(one & far) <= 1


@pytest.mark.parametrize(
    ("declared", "single", "message"),
    [
        ({"kind": "categorial"}, False, r"items\.colour\.kind=categorial; expected .*; did you mean 'categorical'"),
        ({"kind": "categorical", "mincount": 2}, False, r"items\.colour\.mincount .*; did you mean 'min_count'"),
        ({"kind": "text", "min_count": 2}, False, r"min_count .* kind text"),
        ({}, False, "expected a mapping with a kind"),
        ("categorical", False, "expected a mapping with a kind"),
        ({"kind": "categorical", "min_count": 0}, False, r"min_count=0; expected a whole number"),
        ({"kind": "categorical", "out_of_vocabulary": True}, False, r"out_of_vocabulary=True"),
        ({"kind": "multi", "separator": ""}, False, r"separator=; expected the text"),
        ({"kind": "numeric"}, False, "neither buckets, edges nor standardise"),
        ({"kind": "numeric", "buckets": 5, "standardise": True}, False, "buckets and standardise; expected one"),
        ({"kind": "numeric", "buckets": 1}, False, "buckets=1"),
        ({"kind": "numeric", "edges": [1, 1]}, False, r"edges=\[1, 1\]; expected different numbers"),
        ({"kind": "numeric", "edges": [2, 1]}, False, "ascending"),
        ({"kind": "numeric", "edges": []}, False, "edges"),
        ({"kind": "numeric", "standardise": 1}, False, "standardise=1; expected true or false"),
        ({"kind": "text", "ngrams": [4, 3]}, False, "ngrams"),
        ({"kind": "text", "ngrams": 3}, False, "ngrams=3"),
        ({"kind": "text", "column": 3}, False, "column=3; expected a column's name"),
        ({"kind": "text"}, True, r"events\.colour: an event's feature is one code.*; it is text"),
        ({"kind": "numeric", "standardise": True}, True, "it is numeric with standardise"),
    ],
)
def test_a_declaration_that_can_not_be_built_is_refused(declared: Any, single: bool, message: str) -> None:
    with pytest.raises(UserError, match=rf"preparation\.features\..*{message}"):
        check_spec("colour", declared, single)


def test_declarations_that_can_be_built_pass() -> None:
    check_spec("device", {"kind": "categorical", "column": None, "min_count": None}, single=True)
    check_spec("age_2", {"kind": "numeric", "edges": [18, 25]}, single=True)
    check_spec("price", {"kind": "price"}, single=True)
    check_spec("price", {"kind": "price", "standardise": True}, single=False)
    null = {"column": None, "min_count": None, "out_of_vocabulary": None}
    assert fit("c", {"kind": "categorical", **null}, ["a"]) == fit("c", {"kind": "categorical"}, ["a"])
    for name in ("a.b", "1a", "", "a b", "ä"):
        with pytest.raises(UserError, match="begins with a letter"):
            check_spec(name, {"kind": "text"}, single=False)


@pytest.mark.parametrize(
    ("kind", "settings", "values", "message"),
    [
        ("categorical", {}, [None, ["a", "b"]], r"\['a', 'b'\]; .*kind multi takes lists"),
        ("numeric", {"buckets": 3}, [None, "red", "blue"], "no number: the first value is 'red'"),
        ("price", {}, [[3]], "no number"),
        ("vector", {}, [None, "0.1 0.2"], "'0.1 0.2'; expected lists of numbers"),
        ("vector", {}, [[1, 2], [1, 2, 3]], "lists of 2 and of 3 numbers"),
        ("vector", {}, [["a", "b"]], "more than numbers"),
    ],
)
def test_values_that_the_kind_can_not_mean_are_refused(kind: str, settings: Any, values: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"feature 'colour'.*{message}"):
        fit("colour", spec(kind, **settings), values)


RAW = {  # what people and filters see of values
    "categorical": (["a", 3, 3.5, True, "", None, math.nan], ["a", "3", "3.5", "true", None, None, None]),
    "multi": (
        ["x|y", None, ["y", 3, None], "", [], "z| x ", "x|x"],
        [["x", "y"], None, ["3", "y"], None, None, ["x", "z"], ["x"]],
    ),
    "numeric": ([3, "4.5", None, "red", math.inf, True], [3.0, 4.5, None, None, None, 1.0]),
    "price": ([3, 9.99], [3.0, 9.99]),
    "text": (["Red  shoe", None, "", 12], ["Red  shoe", None, None, "12"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", RAW)
def test_raw_values_are_plain_and_encode_to_the_same(kind: str) -> None:
    values, expected = RAW[kind]
    settings = {"multi": {"separator": "|"}, "numeric": {"buckets": 2}}.get(kind, {})
    encoder = fit("colour", spec(kind, **settings), values)
    raw = raw_values(encoder, values)
    assert raw == expected
    assert [type(value) for value in raw] == [type(value) for value in expected]
    assert [a.tobytes() for a in encode(encoder, raw)] == [a.tobytes() for a in encode(encoder, values)]
    assert raw_values(encoder, raw) == raw


def test_vectors_have_no_raw_values() -> None:
    with pytest.raises(ValueError, match="vectors"):
        raw_values(fit("colour", spec("vector"), [[1.0]]), [[1.0]])
