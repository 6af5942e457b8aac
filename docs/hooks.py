"""Fill in what pages take from the tree when the site is built: settings from conf/, lines of the reading path.

A page asks for it with a comment of its own line: <!-- generated: settings --> or <!-- generated: reading-path -->.
"""

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.utils import get_object

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
READING_PATH = (  # file, what it shows
    ("core/schema.py", "the prepared directory: names, dtypes, checks"),
    ("core/batch.py", "a history, built the same way for training and serving"),
    ("data/loader.py", "from the prepared directory to batches"),
    ("model/two_tower.py", "both towers, and how a history becomes a user vector"),
    ("model/negatives.py", "which items a step scores beside the targets, and with which probability"),
    ("model/scoring.py", "from vectors to logits: temperature, logQ, accidental hits"),
    ("model/losses/softmax.py", "the loss, at once or in chunks"),
    ("training/module.py", "one training step, one validation step"),
    ("metrics/ranks.py", "the target's rank among the whole catalogue, ties included"),
    ("serving/retriever.py", "a query answered from a bundle"),
)
TITLES = {  # group -> heading; in the order of the page
    "effort": "Effort",
    "data": "Data",
    "preparation": "Preparation and features",
    "split": "Split",
    "model": "Model",
    "model/item_tower": "Item tower",
    "model/user_tower": "User tower",
    "model/residual": "Residual",
    "model/pointer": "Pointer",
    "model/objective": "Objective",
    "model/negatives": "Negatives",
    "model/loss": "Loss",
    "optimizer": "Optimizer",
    "trainer": "Trainer",
    "callbacks": "Callbacks",
    "evaluation": "Evaluation",
    "logger": "Logger",
    "sweep": "Sweep",
    "sweep/pruner": "Pruner of a sweep",
    "index": "Index (of an export)",
    "gate": "Gate (of a promotion)",
}
HIDDEN = ("_target_", "_partial_", "_convert_", "defaults", "hydra", "override hydra/job_logging")
OPEN = ("sweep.space", "sweep.objectives")  # mappings whose keys the user chooses
TYPES = {"int": "int", "float": "float", "bool": "bool", "str": "text", "seq": "list", "map": "mapping"}


class Setting(NamedTuple):
    """One line of a table of settings."""

    key: str  # as typed on the command line
    type: str
    default: str
    meaning: str


class Argument(NamedTuple):
    """What a function's signature and docstring say of an argument."""

    type: str = ""
    meaning: str = ""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the comments that ask for generated text (a hook that MkDocs calls for each page).

    `sh no-run` marks blocks that tests only read; MkDocs does not know that mark.
    """
    markdown = re.sub(r"^```sh no-run$", "```sh", markdown, flags=re.MULTILINE)
    generated: dict[str, Callable[[], str]] = {"settings": settings_page, "reading-path": reading_path_table}
    return re.sub(r"^<!-- generated: (\S+) -->$", lambda m: generated[m[1]](), markdown, flags=re.MULTILINE)


def reading_path_table() -> str:
    """Return the files of the reading path with their numbers of lines."""
    lines = [len((ROOT / "twotower" / file).read_text().splitlines()) for file, _ in READING_PATH]
    rows = [
        f"| {n} | `twotower/{file}` | {what} | {count} |"
        for n, ((file, what), count) in enumerate(zip(READING_PATH, lines, strict=True), start=1)
    ]
    return "\n".join(
        ["| | file | what it shows | lines |", "|---|---|---|---|", *rows, f"| | **all** | | {sum(lines)} |"]
    )


def settings_page() -> str:
    """Return one section for each configuration file, with a table of its settings."""
    parts = ["## twotower train", _table(settings_of(CONF / "train.yaml", "")), "## twotower export"]
    parts.append(_table(settings_of(CONF / "export.yaml", "")))
    for group, title in TITLES.items():
        files = sorted((CONF / group).glob("*.yaml"))
        parts += [f"## {title}", f"`{group}=` " + ", ".join(f"`{file.stem}`" for file in files)]
        settings = [settings_of(file, group.replace("/", ".")) for file in files]
        meanings = {s.key: s.meaning for s in itertools.chain(*settings) if s.meaning}  # variants don't repeat them
        for file, own in zip(files, settings, strict=True):
            rows = [s._replace(meaning=s.meaning or meanings.get(s.key, "")) for s in own]
            parts += [f"### {group}={file.stem}", _description(file), _table(rows)]
    parts += ["## Experiments", "Recipes, each a file of overrides: `experiment=NAME`. They say in comments why."]
    parts += [f"- `experiment={f.stem}`: {_description(f)}" for f in sorted((CONF / "experiment").glob("*.yaml"))]
    return "\n\n".join(part for part in parts if part)


def settings_of(file: Path, prefix: str) -> list[Setting]:
    """Return the settings of a configuration file; `prefix` is its group's key, as model.item_tower."""
    text = file.read_text()
    if "@package _global_" in text:
        prefix = ""
    root = yaml.compose(text)
    return list(_walk(root, prefix, text.splitlines())) if isinstance(root, yaml.MappingNode) else []


def _walk(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[Setting]:
    """Yield the settings of a mapping and of the mappings inside it."""
    names = {key.value: value for key, value in node.value}
    arguments = _arguments(names["_target_"].value) if "_target_" in names else {}
    for key, value in node.value:
        if key.value in HIDDEN:
            continue
        path = f"{prefix}.{key.value}" if prefix else key.value
        block = isinstance(value, yaml.MappingNode) and not value.flow_style
        meaning = _comment(lines[key.start_mark.line])
        if path in OPEN:
            yield Setting(path, "mapping", "", meaning)
        elif block:
            if meaning:
                yield Setting(path, "mapping", "", meaning)
            yield from _walk(value, path, lines)
        else:
            default, described = _source(value, lines), arguments.get(key.value, Argument())
            meaning = meaning or described.meaning
            if meaning or "${" not in default:  # else it is only handed on from another setting
                yield Setting(path, described.type or _type(value, default), default, meaning)


def _arguments(target: str) -> dict[str, Argument]:
    """Return type and meaning of each argument of a function or class, from its signature and docstring."""
    if not target.startswith("twotower."):
        return {}
    called = get_object(target)
    texts = dict(re.findall(r"^ {4,}(\w+): (.+(?:\n {12,}.+)*)", f"{called.__doc__}", flags=re.MULTILINE))
    return {
        name: Argument(_plain_type(parameter), " ".join(texts.get(name, "").split()).rstrip("."))
        for name, parameter in inspect.signature(called).parameters.items()
    }


def _plain_type(parameter: inspect.Parameter) -> str:
    """Return a declared type without the names of modules."""
    if parameter.annotation is inspect.Parameter.empty:
        return ""
    declared = parameter.annotation
    text = declared if isinstance(declared, str) else str(inspect.formatannotation(declared))
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


def _type(value: yaml.Node, default: str) -> str:
    if default == "???" or default.startswith("${"):
        return ""
    kind = value.tag.rpartition(":")[2]
    return "optional" if kind == "null" else TYPES.get(kind, kind)


def _source(value: yaml.Node, lines: list[str]) -> str:
    """Return a value as the file has it."""
    start, end = value.start_mark, value.end_mark
    if start.line == end.line:
        return f"{lines[start.line][start.column : end.column]}"
    return " ".join(line.strip() for line in lines[start.line : end.line + 1])


def _comment(line: str) -> str:
    return line.partition(" # ")[2].strip()


def _description(file: Path) -> str:
    """Return the comment at the head of a file, then what comments below suggest, as code."""
    lines = file.read_text().splitlines()
    comments = [line.removeprefix("# ") for line in lines if line.startswith("# ") and "@package" not in line]
    suggested = [line for line in comments if re.match(r" |[a-z_.]+: \{", line)]
    text = " ".join(line for line in comments if line not in suggested)
    return "\n".join([text, "", "```yaml", *suggested, "```"]) if suggested else text


def _table(settings: list[Setting]) -> str:
    if not settings:
        return ""
    rows = []
    for key, kind, default, meaning in settings:
        shown = "required" if default == "???" else f"`{default}`" if default else ""
        cells = (f"`{key}`", f"`{kind}`" if kind else "", shown, meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    table = ["| setting | type | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(['<div class="settings" markdown>', "", *table, "", "</div>"])
