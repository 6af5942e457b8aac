"""Off-policy estimates on a shop of known truth: bias, coverage of the intervals, and what the log can not know.

`pytest -s -k coverage tests/lifecycle/test_off_policy.py` prints the figures. Shapes: see simulated_shop.
"""

import numpy as np
import pytest
from simulated_shop import log_of, make_shop, value_of

from twotower.core.errors import UserError
from twotower.lifecycle.off_policy import METHODS, LoggedLists, estimate, jackknife, places_in
from twotower.lifecycle.outcome_model import weighted_predictions

SHOP = make_shop()
LOGS = 250  # with 1,000 the study has tighter figures
K = len(SHOP.effects)


@pytest.mark.slow
def test_coverage_of_95_percent_intervals() -> None:
    truth, plain = value_of(SHOP, SHOP.new), value_of(SHOP, SHOP.ranking[:, :K])
    rows = []
    for seed in range(LOGS):
        log, context = log_of(SHOP, users=1300, requests=4000, exploration=0.3, random=np.random.default_rng(seed))
        result = estimate(log, SHOP.new[context], clip=np.inf)
        rows.append([*result.new.values(), *result.new_minus_plain.values(), result.plain, result.support])
    table = np.array(rows)  # [LOGS, 8, 3]
    names = [*METHODS, *(f"{name} - plain" for name in METHODS), "plain", "support"]
    expected = np.array([truth] * 3 + [truth - plain] * 3 + [plain, 1.0])
    covered = ((table[:, :, 1] <= expected) & (expected <= table[:, :, 2])).mean(axis=0)
    error = table[:, :, 0] - expected
    print(f"\n{'':14} truth  covered  bias   deviation  mean half width")
    for name, value, share, bias, spread, half in zip(
        names,
        expected,
        covered,
        error.mean(axis=0),
        error.std(axis=0),
        (table[:, :, 2] - table[:, :, 1]).mean(axis=0) / 2,
        strict=True,
    ):
        print(f"{name:14} {value:6.3f}  {share:.3f}   {bias:+.4f}  {spread:.4f}   {half:.4f}")
    assert ((covered >= 0.91) & (covered <= 0.985)).all()  # three standard errors of LOGS draws
    assert (np.abs(error.mean(axis=0)) < 0.25 * error.std(axis=0)).all()
    spread = dict(zip(names, error.std(axis=0), strict=True))
    assert spread["DR"] < spread["IPS"] and spread["SNIPS"] < spread["IPS"]


def test_ips_without_effects_of_places_is_a_weighted_sum_in_a_loop() -> None:
    """All outcomes at all places alike: the effects are 1 as far as chance allows, and the loop knows them as 1."""
    log, context = log_of(SHOP, 300, 900, 0.5, np.random.default_rng(3))
    log = log._replace(outcome=np.ones(len(log.item)))
    result = estimate(log, SHOP.new[context], clip=20.0)
    total = weights = clipped = 0.0
    for request, item, propensity in zip(log.request, log.item, log.propensity, strict=True):
        if item in SHOP.new[context[request]]:
            total += min(1 / propensity, 20.0)
            weights += 1 / propensity
            clipped += 1 / propensity > 20
    assert result.new["IPS"].value == pytest.approx(total / 900, rel=1e-3)
    assert result.support.value == pytest.approx(weights / (900 * K))
    assert result.clipped == pytest.approx(clipped / result.matched)
    for name in ("SNIPS", "DR"):
        assert result.new[name].value == pytest.approx(K, rel=0.02 if name == "SNIPS" else 0.1)
    assert result.plain.value == pytest.approx(K, rel=1e-3)


def test_the_logging_lists_themselves_are_worth_the_same() -> None:
    log, context = log_of(SHOP, 900, 4000, 0.2, np.random.default_rng(4))
    result = estimate(log, SHOP.ranking[context][:, :K])
    assert result.new["SNIPS"].value == pytest.approx(result.plain.value)
    assert result.new_minus_plain["SNIPS"] == pytest.approx((0, 0, 0), abs=1e-9)
    assert result.shown.value == pytest.approx(log.outcome.sum() / 4000)


def test_missing_support_shows() -> None:
    """The new list has two of five items that the log never shows."""
    log, context = log_of(SHOP, 900, 3000, 0.3, np.random.default_rng(5))
    lists = SHOP.new[context].copy()
    lists[:, 3:] = SHOP.ranking[context][:, -2:]
    result = estimate(log, lists)
    assert result.support.low < 0.6 < result.support.high < 0.8
    assert result.new["IPS"].value < result.new["SNIPS"].value
    nothing = estimate(log, np.full((3000, 2), 10_000))
    assert nothing.matched == 0 and nothing.new["IPS"] == nothing.new["SNIPS"] == (0, 0, 0)


def test_a_log_needs_exploration_and_users() -> None:
    log, context = log_of(SHOP, 100, 300, 0.3, np.random.default_rng(6))
    with pytest.raises(UserError, match="no exploration"):
        estimate(log._replace(propensity=np.ones(len(log.item))), SHOP.new[context])
    with pytest.raises(UserError, match="at least 30"):
        estimate(log._replace(user=log.user % 20), SHOP.new[context])


def test_lists_may_be_short_and_of_different_lengths() -> None:
    log, context = log_of(SHOP, 200, 600, 0.4, np.random.default_rng(7))
    keep = log.place < 1 + log.request % K  # lists cut off at the end
    cut = LoggedLists(log.user, *(column[keep] for column in log[1:]))
    lists = np.where(np.arange(K) < 1 + np.arange(600)[:, None] % K, SHOP.new[context], -1)
    result = estimate(cut, lists)
    assert all(np.isfinite(value).all() for value in result.new.values())


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(3, 2, 200)
    found = jackknife(np.append((values.sum() - values) / 199, values.mean()))
    half = 1.971957 * values.std(ddof=1) / np.sqrt(200)  # Student, 199 degrees of freedom
    assert found == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))


def test_places_are_those_of_the_requests_own_list() -> None:
    lists = np.array([[4, 2, -1], [7, 4, 2], [-1, -1, -1]])
    found = places_in(lists, np.array([0, 0, 1, 1, 2, 1]), np.array([2, 7, 7, 2, 4, 9]))
    assert found.tolist() == [1, -1, 0, 2, -1, -1]
    assert places_in(np.full((1, 1), -1), np.array([0]), np.array([3])).tolist() == [-1]


def test_predictions_know_only_other_folds() -> None:
    """Fold 0 has outcomes everywhere, the others none: its own predictions are 0, those of the others are not."""
    requests = 100
    fold = np.arange(requests) % 5
    request, item = np.arange(requests), np.arange(requests) % 3
    value = (fold == 0).astype(np.float64)
    lists = np.repeat(item[:, None], 1, axis=1)
    shown = weighted_predictions(request, item, value, np.ones(requests), np.zeros(requests, int), lists, fold).shown
    assert (shown[fold == 0] == 0).all() and (shown[fold != 0] > 0.1).all()
