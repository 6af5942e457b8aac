"""A real browser without a window: the distribution's Chromium, driven through Playwright.

Without Chromium a test is skipped; where the environment variable CI is set, it fails.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, sync_playwright

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
CHROMIUM = "chromium"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """One browser for the tests of a file, with a profile of its own."""
    found = shutil.which(CHROMIUM)
    if found is None:
        reason = f"{CHROMIUM} is not installed: apt-get install {CHROMIUM}"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    profile: Path = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=found, headless=True, args=FLAGS, viewport={"width": 1400, "height": 1000}
        )
        try:
            yield context
        finally:
            context.close()
