"""Where the fixtures that several tests share come from."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load them, but not in the process that only hands tests to workers, which would wait for its import of torch."""
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("small_models")
        config.pluginmanager.import_plugin("toy_bundle")
