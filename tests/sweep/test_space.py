"""The search space against what Hydra and Optuna make of the same words."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from twotower.core.errors import UserError
from twotower.sweep.space import distributions, grid, parse_value, settings_of, text_of


def test_nested_settings_get_the_names_of_the_command_line_and_null_leaves_one_out() -> None:
    space = {"model": {"dim": "choice(1,2)", "user_tower": {"layers": None}}, "model/user_tower": "choice(gru,mean)"}
    assert dict(settings_of(space)) == {"model.dim": "choice(1,2)", "model/user_tower": "choice(gru,mean)"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("choice(32,64)", CategoricalDistribution(("32", "64"))),
        ("choice([16,32],[])", CategoricalDistribution(("[16,32]", "[]"))),
        ("choice('a b',c)", CategoricalDistribution((r"a\ b", "c"))),
        ("5,7", CategoricalDistribution(("5", "7"))),
        ("5", CategoricalDistribution(("5",))),
        ("range(1,4)", IntDistribution(1, 3)),
        ("range(1,8,3)", IntDistribution(1, 7, step=3)),
        ("range(0,1,0.5)", CategoricalDistribution(("0.0", "0.5"))),
        ("interval(0,1)", FloatDistribution(0, 1)),
        ("interval(0.0,0.5)", FloatDistribution(0, 0.5)),
        ("tag(log,interval(1e-4,1))", FloatDistribution(1e-4, 1, log=True)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("int(tag(log,interval(1,100)))", IntDistribution(1, 100, log=True)),
        ("tag(log,int(interval(1,100)))", IntDistribution(1, 100, log=True)),
    ],
)
def test_words_become_distributions(text: str, expected: object) -> None:
    assert distributions({"a": {"b": text}}) == {"a.b": expected}


@pytest.mark.parametrize("text", ["choice(", "interval(1)", "choice()"])
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"sweep\.space: a\.b="):
        distributions({"a": {"b": text}})


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(UserError, match=r"sweep\.space is empty"):
        distributions({"a": {"b": None}})


def test_a_grid_has_all_combinations_in_order() -> None:
    space = {"a": "choice(x,y)", "b": {"c": "range(1,3)"}}
    assert grid(space) == [{"a": a, "b.c": c} for a in ("x", "y") for c in (1, 2)]
    with pytest.raises(UserError, match=r"b=interval\(0,1\)"):
        grid({"a": "choice(x,y)", "b": "interval(0,1)"})


def test_values_that_are_typed_become_those_of_the_distribution() -> None:
    assert parse_value(CategoricalDistribution(("32", "64")), "32") == "32"
    assert parse_value(CategoricalDistribution(("32", "64")), "33") is None
    assert parse_value(FloatDistribution(0, 1), "0.25") == 0.25
    assert parse_value(FloatDistribution(0, 1), "2") is None
    assert parse_value(FloatDistribution(0, 1), "many") is None
    assert parse_value(IntDistribution(1, 7, step=3), "4") == 4
    assert parse_value(IntDistribution(1, 7, step=3), "5") is None


@pytest.mark.parametrize(("value", "text"), [(0.1, "0.1"), ([16, 32], "[16,32]"), (None, "null")])
def test_a_value_of_a_configuration_is_written_as_one_types_it(value: object, text: str) -> None:
    assert text_of(value) == text


def test_a_truth_value_is_one_of_those_to_choose_from() -> None:
    assert parse_value(distributions({"a": "choice(true,false)"})["a"], text_of(False)) == text_of(False)
