"""The pages hold what they promise: files exist, every setting has a meaning, the site builds without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs import doctests, hooks

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def table(page: str) -> list[list[str]]:
    """Return the cells of a page's table rows, without the head."""
    lines = [line for line in (DOCS / page).read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_each_concept_is_in_the_file_that_the_page_names() -> None:
    rows = table("explanation/where-is.md")
    assert len(rows) >= 44
    missing = {concept: file for concept, file in rows if not (ROOT / file.strip("` ")).is_file()}
    assert not missing


def test_the_reading_path_stays_short() -> None:
    total = sum(len((ROOT / "twotower" / file).read_text().splitlines()) for file, _ in hooks.READING_PATH)
    assert total <= 1600
    assert f"**all** | | {total} |" in hooks.reading_path_table()


def test_every_setting_has_a_meaning_and_a_place_on_the_page() -> None:
    page = hooks.settings_page()
    assert not [line for line in page.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    groups = {str(file.parent.relative_to(hooks.CONF)) for file in hooks.CONF.rglob("*.yaml")}
    assert groups == {*hooks.TITLES, "experiment", "."}
    assert "| `model.dim` |  | `${effort.dim}` |" in page and "| `effort.dim` | `int` | `64` |" in page
    assert re.search(r"\| `data\.path` \| `str` \| required \| a file, a folder", page)
    assert re.search(r"\| `model\.item_tower\.hash_buckets` \| `int \\\| None` \| `null` \|", page)


def test_settings_are_read_from_any_shape_of_file(tmp_path: Path) -> None:
    file = tmp_path / "part.yaml"
    file.write_text("# Head.\nrate: 0.5 # of learning\nlist: [a, b]\nsame: ${seed}\ninner:\n  flag: true # on\n")
    assert hooks.settings_of(file, "group.part") == [
        ("group.part.rate", "float", "0.5", "of learning"),
        ("group.part.list", "list", "[a, b]", ""),
        ("group.part.inner.flag", "bool", "true", "on"),
    ]


def test_examples_of_docstrings_become_blocks_of_code() -> None:
    docstring = "Add.\n\n    >>> add(1, 1)\n    2\n\nArgs:\n    a: one.\n"
    shown = doctests.EXAMPLE.sub(doctests.fenced, docstring)
    assert shown == "Add.\n\n    ```pycon\n    >>> add(1, 1)\n    2\n    ```\n\nArgs:\n    a: one.\n"


def test_links_between_the_readme_and_other_files_lead_somewhere() -> None:
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        ROOT / "experiments" / "README.md",
    ):
        targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        assert not [target for target in targets if not (page.parent / target).exists()], page


def test_the_tree_of_the_readme_is_the_tree() -> None:
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2].partition("## ")[0]
    named = re.findall(r"^  (\w+)/ ", tree, flags=re.MULTILINE)
    folders = [folder.name for folder in (ROOT / "twotower").iterdir() if (folder / "__init__.py").is_file()]
    assert sorted(named) == sorted(folders)


def test_jobs_of_the_public_workflow_are_the_steps_of_ci() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["check"]["strategy"]["matrix"]["step"]
    targets = {word for step in steps for word in step.partition(" ARGUMENTS")[0].split()}
    called = re.findall(r"^make (.+)$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    assert targets == {word for line in called for word in line.partition(" ARGUMENTS")[0].split()}
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list(DOCS.rglob("*.md")))
    for page in pages:
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"(https?:[^\"]+)", page.read_text())
        styles = re.findall(r"<link[^>]*rel=\"(?:stylesheet|preconnect)\"[^>]*href=\"(https?:[^\"]+)", page.read_text())
        assert not loaded + styles, page
