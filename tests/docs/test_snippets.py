"""Every command and snippet of README.md and docs/ works: run on a small shop, or at least composed."""

import ast
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked_commands import start
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from snippets import (
    EXPERIMENT,
    PAGES,
    ROOT,
    Snippet,
    commands,
    made_small,
    make_shop,
    snippets,
    start_python,
)
from snippets import twotower_words as words_of

from twotower.commands.main import COMMANDS
from twotower.runs.config_folder import CONF

SHELL, NOT_RUN = "sh", "sh no-run"
TITLE = re.compile(r' title="(.+)"$')
ALL = [snippet for page in PAGES for snippet in snippets(page)]
PROGRAMS = (
    "bash",
    "curl",
    "docker",
    "echo",
    "eval",
    "export",
    "kubectl",
    "make",
    "mkdir",
    "mlflow",
    "openssl",
    "pip",
    "printf",
    "python",
    "rsync",
    "set",
)  # others in blocks that aren't run


def places(of: list[Snippet]) -> list[str]:
    return [snippet.place for snippet in of]


def test_blocks_name_a_language_that_something_checks() -> None:
    known = (SHELL, NOT_RUN, "python", "json", "toml", "yaml", "")
    assert not [s.place for s in ALL if TITLE.sub("", s.info) not in known]


def test_blocks_of_the_outside_package_are_its_files() -> None:
    titled = {m[1]: s.text for s in ALL if (m := TITLE.search(s.info)) and m[1].startswith("my_shop/")}
    assert titled == {name: (ROOT / "tests" / "outside_package" / name).read_text() for name in titled} != {}


SERVERS = ("serve", "demo", "consume")  # do not end; their own tests start them
PARSED = [s for s in ALL if s.info in (SHELL, NOT_RUN)]


@pytest.fixture(scope="module")
def composed() -> Iterator[Callable[..., DictConfig]]:
    """Compose a configuration; each one once."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield cache(lambda name, *overrides: compose(name, overrides=list(overrides), return_hydra_config=True))


@pytest.mark.parametrize("snippet", PARSED, ids=places(PARSED))
def test_commands_exist_and_their_settings_compose(snippet: Snippet, composed: Callable[..., DictConfig]) -> None:
    for words in commands(snippet):
        arguments = words_of(words)
        if arguments is None:
            assert snippet.info == NOT_RUN
            assert Path(words[0]).name in PROGRAMS or re.match(r"\w+=", words[0]), words
            continue
        assert (not arguments[0].startswith("-") and arguments[0] in COMMANDS) or arguments[0] in (
            "--help",
            "--version",
        )
        if arguments[0] not in ("train", "evaluate", "export", "promote", "retrain", "on-ray"):
            continue
        if arguments[0] == "on-ray":
            arguments = ["train", *arguments[arguments.index("--") + 1 :]]
        settings = [w for w in arguments[1:] if "=" in w]
        own_folder = "--config-dir" in arguments or "experiment=shop_nightly" in arguments  # files are the reader's
        overrides = [o for o in OverridesParser.create().parse_overrides(settings) if not o.is_sweep_override()]
        kept = [o.input_line for o in overrides if o.key_or_group != "hydra/launcher" and not own_folder]
        kept = [o for o in kept if not o.startswith("hydra.launcher.") and not o.startswith("resume=")]
        config = composed(arguments[0] if arguments[0] in ("export", "promote", "retrain") else "train", *kept)
        assert OmegaConf.to_container(config, resolve=False)


YAML = [s for s in ALL if s.info.startswith("yaml")]


@pytest.mark.parametrize("snippet", YAML, ids=places(YAML))
def test_yaml_can_be_read(snippet: Snippet) -> None:
    assert yaml.safe_load(snippet.text)


PYTHON = [s for s in ALL if s.info == "python"]


@pytest.mark.parametrize("snippet", PYTHON, ids=places(PYTHON))
def test_python_parses_and_fits_a_page(snippet: Snippet) -> None:
    ast.parse(snippet.text)
    assert max(map(len, snippet.text.splitlines())) <= 120


@pytest.mark.slow
def test_every_command_and_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shop = tmp_path / "shop"
    shop.mkdir()
    make_shop(shop)
    failures: list[str] = []
    seconds: dict[str, float] = {}
    done: set[str] = set()

    def run(what: str, place: str, function: Callable[..., None], argument: Any) -> None:
        if what in done:  # the same command on two pages
            return
        done.add(what)
        log, begun = tmp_path / "log", time.perf_counter()
        log.unlink(missing_ok=True)
        process = function(argument, folder=shop, output=log)
        process.join(120)
        status = process.exitcode
        process.kill()
        seconds[f"{place} {what[:90]}"] = time.perf_counter() - begun
        if status != 0:  # None: it did not end
            failures.append(f"{place}: status {status}\n{what}\n{log.read_text()[-1500:]}")

    def train(name: str, *settings: str) -> None:
        words = made_small(["train", *settings, f"run_dir=runs/{name}", f"hydra.run.dir=runs/{name}"])
        run(name, "beforehand", start, words)

    experiment = shop / "conf" / "experiment" / "rich.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text(EXPERIMENT)
    train("rich", "--config-dir", "conf", "experiment=rich")
    for seed in (0, 1):
        train(f"plain-{seed}", "data=events", "data.path=events.parquet", "model.dim=8", f"seed={seed}")
    run("export", "beforehand", start, ["export", "run=runs/rich", "out=bundles/shop"])
    assert not failures, "\n\n".join(failures)
    prepared = next(p for p in (shop / "prepared").iterdir() if (p / "manifest.json").is_file())
    names = {"RUN": "runs/plain-0", "OTHER_RUN": "runs/plain-1", "BUNDLE": "bundles/shop", "PREPARED": str(prepared)}

    def filled_in(text: str) -> str:
        return re.sub(r"\b(?:OTHER_RUN|RUN|BUNDLE|PREPARED)\b", lambda m: names[m[0]], text)

    page = None
    for snippet in ALL:
        if snippet.page != page:
            page = snippet.page
            shutil.rmtree(shop / "conf", ignore_errors=True)
        if (title := TITLE.search(snippet.info)) and title[1].startswith("conf/"):
            (shop / title[1]).parent.mkdir(parents=True, exist_ok=True)
            (shop / title[1]).write_text(snippet.text)
        if snippet.info == "python":
            text = filled_in(snippet.text)
            run(text, snippet.place, start_python, text)
        elif snippet.info == SHELL:
            for words in commands(snippet):
                arguments = words_of([filled_in(word) for word in words])
                assert arguments is not None
                if arguments[0] not in SERVERS:
                    run(" ".join(arguments), snippet.place, start, made_small(arguments))
    print(*(f"{s:6.1f} s  {what}" for what, s in sorted(seconds.items(), key=lambda x: -x[1])), sep="\n")
    assert not failures, "\n\n".join(failures)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900
