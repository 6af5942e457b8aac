"""Distances of distributions: against the definition, silent by chance, and loud where something moved."""

import math

import numpy as np
import pytest

from twotower.lifecycle.drift import AS_BEFORE, FAR, LIMIT, NOTICED, SHIFTED, Row, chance, compare, distance


def test_the_distance_is_that_of_the_definition() -> None:
    random = np.random.default_rng(0)
    for bins in (2, 5, 40):
        p, q = random.dirichlet(np.ones(bins)), random.dirichlet(np.ones(bins))
        middle = (p + q) / 2
        bits = (np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2
        assert distance(100 * p, 7 * q) == pytest.approx(math.sqrt(bits))


def test_the_limits_are_those_of_the_stability_index() -> None:
    p = np.full(10, 0.1)
    for shift, psi_limit, limit in ((0.0325, 0.1, NOTICED), (0.0475, 0.25, LIMIT)):
        q = p + shift * np.array([1, -1] * 5)
        psi = float(np.sum((p - q) * np.log(p / q)))
        assert psi == pytest.approx(psi_limit, rel=0.12) and distance(p, q) == pytest.approx(limit, rel=0.08)


def test_equal_distributions_rarely_exceed_what_chance_does() -> None:
    random = np.random.default_rng(1)
    p = random.dirichlet(np.ones(12))
    above = [
        distance(one := random.multinomial(400, p), other := random.multinomial(90, p)) > chance(one, other, 1.0)
        for _ in range(60)
    ]
    assert np.mean(above) <= 0.05  # 1 % by construction, and chance
    # Four events of each session are the same, so the counts are those of a fourth of the events.
    above = [
        distance(one := 4 * random.multinomial(100, p), other := 4 * random.multinomial(40, p))
        > chance(one, other, 4.0)
        for _ in range(60)
    ]
    assert np.mean(above) <= 0.05


def test_rows_tell_what_moved() -> None:
    before = {"view": 9000.0, "cart": 900.0, "purchase": 100.0}
    same = compare("event type", before, {name: n / 10 for name, n in before.items()}, 3.0, LIMIT)
    assert same.value == 0 and same.verdict == AS_BEFORE and same.note == ""
    moved = compare("event type", before, {"view": 500.0, "wishlist": 500.0}, 3.0, LIMIT)
    assert moved.verdict == FAR and moved.note == "wishlist 0.0% -> 50.0%, view 90.0% -> 50.0%"
    few = compare("event type", before, {"view": 1.0, "purchase": 1.0}, 3.0, LIMIT)
    assert few.value > LIMIT and few.verdict == AS_BEFORE, "two events say nothing"
    assert math.isnan(compare("event type", before, {}, 3.0, LIMIT).value)


def test_verdicts_follow_from_value_chance_and_limit() -> None:
    assert [Row("x", value, 0.0, LIMIT).verdict for value in (0.1, 0.15, 0.3)] == [AS_BEFORE, SHIFTED, FAR]
    assert Row("x", 0.3, 0.4, LIMIT).verdict == AS_BEFORE and Row("x", 0.9).verdict == ""
    assert Row("x", 0.11, None, 0.1).verdict == FAR and Row("x", 0.07, None, 0.1).verdict == SHIFTED
