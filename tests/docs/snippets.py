"""Fenced code blocks of README.md and docs/, the commands in them, and a small shop in which they are run."""

import contextlib
import itertools
import re
import shlex
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from forked_commands import start_function

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SMALL = {  # a setting -> its value, where a command doesn't set it
    "logger": "none",
    "refit": "false",
    "trainer.accelerator": "cpu",
    "model/user_tower": "mean_pool",  # converted to ONNX in a third of the transformer's time
    "trainer.max_epochs": "1",
    "evaluation.replicates": "20",
    "evaluation.baselines": "false",
}
SMALL_MARKETPLACE = {"data.items": "60", "data.users": "60", "data.sessions": "300", "data.oracle": "false"}


class Snippet(NamedTuple):
    """A fenced block."""

    page: Path
    line: int
    info: str  # what stands behind the opening fence: sh, sh no-run, python, yaml title="..."
    text: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets(page: Path) -> list[Snippet]:
    """Return the blocks of a page in order."""
    text = page.read_text()
    return [Snippet(page, text.count("\n", 0, m.start()) + 1, m[1].strip(), m[2]) for m in FENCE.finditer(text)]


def commands(snippet: Snippet) -> list[list[str]]:
    """Return the commands of a shell block as words; comments are left out and continued lines joined."""
    found, begun = [], ""
    text = re.sub(r"\$\(date [^)]*\)", "2026-01-31", snippet.text.replace("\\\n", " "))
    for line in text.splitlines():
        begun += f"{line}\n"
        with contextlib.suppress(ValueError):  # a quote that a later line closes
            found.append(shlex.split(begun, comments=True))
            begun = ""
    assert not begun, f"{snippet.place}: {begun}"
    return [words for words in found if words]


def twotower_words(words: list[str]) -> list[str] | None:
    """Return the words behind `twotower` of a command that calls it, directly or through a launcher; else None."""
    for name, implied in (("twotower", []), ("train.py", ["train"])):
        if name in words:
            rest = words[words.index(name) + 1 :]
            return [*implied, *itertools.takewhile(lambda word: word not in ("||", "&&", "|"), rest)]
    return None


def made_small(words: list[str]) -> list[str]:
    """Return a training or evaluation with small settings, wherever the command has none of its own."""
    name, *rest = words
    if name not in ("train", "evaluate") or "--help" in rest:
        return words
    given = {word.lstrip("+~").partition("=")[0] for word in rest}
    small = dict(SMALL)
    if not given & {"data", "experiment"}:
        small |= SMALL_MARKETPLACE
    if any(key.startswith("logger") for key in given):
        del small["logger"]
    return [*words, *(f"{key}={value}" for key, value in small.items() if key not in given)]


def make_shop(folder: Path) -> None:
    """Write the files that snippets name: events, items and users of a small shop, an experiment for them."""
    random = np.random.default_rng(0)
    users, items, sessions = 60, 60, 420
    length = random.integers(3, 9, sessions)
    owner = np.repeat(random.integers(0, users, sessions), length)
    group = np.repeat(random.integers(0, 6, sessions), length)
    item = (group * 10 + random.integers(0, 10, len(owner))) % items
    begin = np.sort(random.integers(0, 30 * 24 * 60, sessions)) * 60_000
    step = np.concatenate([np.arange(n) for n in length]) * 45_000
    events = pl.DataFrame(
        {
            "item_id": [f"sku-{i + 1:05}" for i in item],
            "timestamp": 1_767_225_600_000 + np.repeat(begin, length) + step,
            "user_id": [f"user-{u}" for u in owner],
            "event_type": random.choice(["view", "cart", "purchase", "remove"], len(owner), p=[0.8, 0.1, 0.06, 0.04]),
            "device": random.choice(["phone", "desktop"], len(owner)),
        }
    )
    events.write_parquet(folder / "events.parquet")
    (folder / "logs").mkdir()
    renamed = events.select(sku="item_id", customer="user_id", time="timestamp")
    renamed.write_csv(folder / "logs" / "january.csv")
    number = np.arange(items)
    table = {
        "item_id": [f"sku-{i + 1:05}" for i in number],
        "category": [("shoes", "socks", "hats", "coats", "bags", "belts")[i // 10] for i in number],
        "genres": [(["red", "warm"], ["blue"], ["red"], ["green", "warm"])[i % 4] for i in number],
        "brand": [("x", "y", "z")[i % 3] for i in number],
        "price": 5.0 + number,
        "title": [f"item number {i}" for i in number],
        "sentence": random.normal(size=(items, 4)).tolist(),
    }
    pl.DataFrame(table).write_parquet(folder / "items.parquet")
    ages = {"user_id": [f"user-{u}" for u in range(users)], "age": 18 + np.arange(users) % 50}
    pl.DataFrame(ages).write_parquet(folder / "users.parquet")
    (folder / "users.txt").write_text("user-1\nuser-2\n")


EXPERIMENT = """\
# @package _global_
defaults: [{override /data: events}, {override /model/item_tower: features}]
data: {path: events.parquet, items: items.parquet}
preparation:
  features:
    items:
      category: {kind: categorical}
      genres: {kind: multi}
      brand: {kind: categorical}
      price: {kind: price}
      title: {kind: text}
      sentence: {kind: vector}
    events:
      device: {kind: categorical}
model: {dim: 8, inputs: [event_type, device]}
"""


def start_python(text: str, folder: Path, output: Path) -> BaseProcess:
    """Start a block of Python in a process of its own."""
    return start_function(_run_python, text, folder=folder, output=output)


def _run_python(text: str) -> None:
    exec(compile(text, "snippet", "exec"), {"__name__": "__main__"})
