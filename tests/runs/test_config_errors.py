"""What a mistyped setting is taken for."""

import pytest

from twotower.runs.config_errors import meant

KNOWN = ["seed", "logger", "model", "model.dim", "optimizer", "optimizer._target_", "optimizer.learning_rate"]
KNOWN += ["optimizer.weight_decay", "trainer", "trainer.max_epochs", "trainer.precision", "preparation.until"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("optimizer.lr", "; did you mean 'optimizer.learning_rate'?"),
        ("lr", "; did you mean 'optimizer.learning_rate'?"),  # nothing at the top is like it
        ("optimizer.learningrate", "; did you mean 'optimizer.learning_rate'?"),
        ("optimiser.weight_decay", "; did you mean 'optimizer.weight_decay'?"),
        ("trainer.epochs", "; did you mean 'trainer.max_epochs'?"),
        ("model.dimension", "; did you mean 'model.dim'?"),
        ("trainer.batch", "; there are max_epochs, precision."),  # not what shares "trainer." with it alone
        ("preparation.min_lenght", "; there are until."),
        ("sed", "; did you mean 'seed'?"),
        ("zzz", "."),
    ],
)
def test_the_hint_is_a_setting_of_a_similar_name(key: str, hint: str) -> None:
    assert meant(key, KNOWN) == hint
