"""Requests that the server's own OpenAPI allows, and others that it does not: none ends with a 5xx.

A real server process answers; what is sent is derandomised, so that each run sends the same.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from live_server import LiveServer, live_server
from schemathesis import checks
from toy_bundle import MakeBundle

EXAMPLES = settings(
    max_examples=6, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def server(make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    bundle = make_bundle([f"i{n}" for n in range(30)], columns={"category": ["a", "b", None] * 10, "price": range(30)})
    with live_server(bundle) as running:
        yield running


CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.mark.slow  # schemathesis takes longer to make requests than the server to answer
@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
def test_every_answer_is_as_the_openapi_says(server: LiveServer, mode: Any) -> None:
    description = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    operations = [result.ok() for result in description.get_all_operations()]
    assert len(operations) >= 15
    for operation in operations:

        @EXAMPLES
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        try:
            ask()
        except Unsatisfiable:  # nothing of it can be wrong, as where it takes nothing
            assert mode is schemathesis.GenerationMode.NEGATIVE
