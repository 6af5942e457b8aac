"""What a reader raises is shown whole; what its configuration gets wrong is one message."""

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from twotower.core.errors import UserError
from twotower.runs.config_errors import explain
from twotower.training.prepare import prepare


@pytest.fixture
def reader() -> Iterator[types.ModuleType]:
    module = types.ModuleType("a_shops_reader")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize(
    "raised", [ValueError("a bug"), TypeError("None + 1"), KeyError("price"), UserError("no file")]
)
def test_an_exception_of_a_reader_passes_with_its_traceback(reader: Any, raised: Exception) -> None:
    def deep() -> None:
        raise raised

    reader.read = lambda path: deep()
    with pytest.raises(type(raised)) as caught:
        prepare(OmegaConf.create({"_target_": "a_shops_reader.read", "path": "x"}), None)
    assert caught.value is raised
    assert caught.traceback[-1].name == "deep"
    assert caught.value.__suppress_context__  # Hydra's own error adds nothing


def test_an_argument_that_a_reader_does_not_take_is_one_message(reader: Any) -> None:
    reader.read = lambda path: None
    with pytest.raises(InstantiationException) as caught:
        prepare(OmegaConf.create({"_target_": "a_shops_reader.read", "pth": "x"}), None)
    assert "unexpected keyword argument 'pth'" in str(explain(caught.value, "train", []))
