"""Each package that an extra brings is named with that extra where it is missing."""

import pytest

from twotower.core.extras import install_hint


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch.nn", "train"),
        ("omegaconf", "train"),
        ("ray.train", "cluster"),
        ("pydantic", "serve"),
        ("uvicorn.config", "serve"),
        ("prometheus_client", "serve"),
        ("redis", "serve"),
        ("confluent_kafka", "streams"),
        ("psycopg", "databases"),
        ("polars", "batch"),
        ("qdrant_client", "databases"),
        ("json", None),
    ],
)
def test_names_the_extra_of_a_missing_package(module: str, extra: str | None) -> None:
    hint = install_hint(ModuleNotFoundError(name=module))
    assert hint is None if extra is None else hint is not None and hint.endswith(f"'twotower[{extra}]'")
