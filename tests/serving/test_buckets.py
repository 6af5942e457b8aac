"""Buckets are as large as their shares, stay the same, and are independent between experiments."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from twotower.core.errors import UserError
from twotower.serving.buckets import bucket_of

USERS = [f"user-{number}" for number in range(20_000)]


def test_buckets_are_as_large_as_their_shares() -> None:
    shares = {"old": 0.7, "new": 0.2, "newer": 0.1}
    for salt in ("a", "spring", ""):
        count = Counter(bucket_of(user, salt, shares) for user in USERS)
        expected = [share * len(USERS) for share in shares.values()]
        assert chisquare([count[name] for name in shares], expected).pvalue > 0.001


def test_experiments_of_different_salts_are_independent() -> None:
    half = {"old": 0.5, "new": 0.5}
    pairs = Counter((bucket_of(user, "one", half), bucket_of(user, "other", half)) for user in USERS)
    table = np.array([[pairs[a, b] for b in half] for a in half])
    assert chi2_contingency(table).pvalue > 0.001
    assert table.min() > 4500


def test_a_bucket_grows_without_moving_those_that_are_in_it() -> None:
    small, large = {"new": 0.1, "old": 0.9}, {"new": 0.3, "old": 0.7}
    before = {user for user in USERS if bucket_of(user, "s", small) == "new"}
    assert before < {user for user in USERS if bucket_of(user, "s", large) == "new"}


def test_an_empty_share_gets_nobody_and_the_last_one_the_rest() -> None:
    assert {bucket_of(user, "s", {"none": 0.0, "all": 1.0}) for user in USERS[:500]} == {"all"}
    thirds = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    assert {bucket_of(user, "ü", thirds) for user in USERS[:500]} == set(thirds)


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan"), "b": 1.0}])
def test_shares_add_up_to_one(shares: dict[str, float]) -> None:
    with pytest.raises(UserError, match="shares is"):
        bucket_of("user", "salt", shares)
