"""Names for MLflow, against MLflow's own check."""

from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils import validation

from twotower.tracking.names import MAX_LENGTH, add_allowed_names, allowed_name

CHECKS = (validation._validate_metric_name, validation._validate_param_name, validation._validate_tag_name)
NAMES = st.one_of(st.text(max_size=300), st.text("a./ ?_\n", max_size=9))


def is_allowed(name: str) -> bool:
    try:
        for check in CHECKS:
            check(name)
    except MlflowException:
        return False
    return len(name) <= validation.MAX_ENTITY_KEY_LENGTH and not name.endswith("\n")  # its `$` lets one through


def test_each_character_is_replaced_where_mlflow_rejects_it() -> None:
    for code in [*range(0x300), 0x20AC, 0x4E2D, 0x1F600]:
        name = f"a{chr(code)}b"
        assert allowed_name(name) == (name if is_allowed(name) else "a_b"), hex(code)


@given(NAMES)
@example("")
@example("..a")
@example("//a/./../b//")
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    assert is_allowed(allowed_name(name))
    assert allowed_name(name) == name or not is_allowed(name)


@given(st.lists(NAMES, max_size=8), st.lists(NAMES, max_size=8))
def test_names_stay_different_from_each_other(first: list[str], second: list[str]) -> None:
    known: dict[str, str] = {}
    add_allowed_names(known, first)
    before = dict(known)
    add_allowed_names(known, second)
    assert set(known) == {*first, *second} and len(set(known.values())) == len(known)
    assert before.items() <= known.items() and all(map(is_allowed, known.values()))
    assert all(before[name] == name for name in first if is_allowed(name))


def test_long_names_that_differ_at_the_end_are_both_kept() -> None:
    known: dict[str, str] = {}
    add_allowed_names(known, ["a" * MAX_LENGTH + "b", "a" * MAX_LENGTH + "c"])
    assert sorted(known.values()) == ["a" * (MAX_LENGTH - 2) + "_2", "a" * MAX_LENGTH]
