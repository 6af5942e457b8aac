"""What loading a registered model leaves in this process, taken back."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def path_as_before() -> Iterator[None]:
    """MLflow puts a model's own code on the path; a process that is started later would import that."""
    before = list(sys.path)
    yield
    sys.path[:] = before
