"""What is printed to be pasted comes back as it was: through a real shell, and through Hydra's own parser."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from twotower.core.command_line import command, override, program, quoting_hint, readable

HOSTILE = [
    "a b",
    "My Shop (1)",
    "dt=2026-01-01/e.parquet",
    "a,b",
    "it's",
    'say "x"',
    "~/e",
    "$HOME",
    "a\\",
    "\\'",
    "[x]",
]
HOSTILE += [
    "{a: 1}",
    "null",
    "1e5",
    "true",
    "",
    "ü/наш",
    "#x",
    "a\\\\'b",
    "${oc.env:HOME}",
    "-m",
    "!x",
    "*.csv",
    "%",
    "a:b",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hydra_reads_an_override_as_it_was_written(value: str) -> None:
    parsed = OverridesParser.create().parse_override(override("run", value))
    assert parsed.key_or_group == "run"
    got = parsed.value()
    assert str(got) == value or (value == "null" and got is None) or str(got).lower() == value or got == float(value)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_hydra_reads_any_text_as_it_was(value: str) -> None:
    if "${" in value:  # an interpolation is one on purpose
        return
    got = OverridesParser.create().parse_override(override("path", f"é{value} ")).value()
    assert got == f"é{value} "


def test_a_shell_hands_over_the_words_as_they_were() -> None:
    line = command("train", *HOSTILE)
    name, *words = program()
    show = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
    shown = f'f() {{ {" ".join(map(json.dumps, show))} "$@"; }}; f {line}'
    done = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [name, *words, "train", *HOSTILE]


@pytest.mark.parametrize("name", ["dt=2026-01-01", "a,b", "e(1)", "it's {x}", "a b", "x;y", "$z"])
def test_a_path_that_is_there_needs_no_quotes_for_hydra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / name).mkdir()
    (tmp_path / name / "e.csv").touch()
    for value, expected in ((f"{name}/e.csv",) * 2, (f"{name}/*.csv",) * 2, (f"~/{name}", f"{tmp_path}/{name}")):
        read = OverridesParser.create().parse_override(readable(f"data.path={value}"))
        assert read.key_or_group == "data.path" and read.value() == expected
        assert readable(f"data.path={value}-not-there") == f"data.path={value}-not-there"
    (word,) = shlex.split(quoting_hint(f"data.path={name}/f").partition("type ")[2])
    assert OverridesParser.create().parse_override(word).value() == f"{name}/f"


@pytest.mark.parametrize("word", ["accept=[e]", "model.dim=8,16", "a={b: 1}", "seed=1", "~logger", "+x=choice(a,b)"])
def test_what_is_no_path_stays_as_it_is(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e").touch()
    assert readable(word) == word
