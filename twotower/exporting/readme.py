"""The README inside a bundle, for the team that serves it: templates/README.md.j2 with the bundle's figures."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from twotower.core.errors import UserError
from twotower.core.schema import FEATURES_FILE, ITEMS_FILE, TOWER_FILE
from twotower.evaluation.verdicts import with_interval
from twotower.serving import bundle_format as fmt
from twotower.serving.golden_answers import item_of

FILES = {
    fmt.EMBEDDINGS_FILE: "the items' vectors, float32, row by row as in items.parquet",
    fmt.HISTORY_FILE: "the items' vectors in histories",
    ITEMS_FILE: "item_id, embedding, train_count, age_days and the items' features, in the same order",
    fmt.INDEX_FILE: "FAISS index over the vectors, inner product",
    TOWER_FILE: "the user tower: vectors of a history's items in, user vector out",
    fmt.TOWER_INT8_FILE: "the same with 8-bit weights",
    fmt.ITEM_TOWER_FILE: "the item tower: features in, item vector out",
    fmt.ID_EMBEDDINGS_FILE: "what the item tower adds to the features' part of an item's vector",
    FEATURES_FILE: "how events and features are encoded",
    fmt.GOLDEN_FILE: "histories with the trained model's results",
    fmt.MANIFEST_FILE: "what the bundle is, and the SHA-256 of each file",
    fmt.CURVE_FILE: "which indexes were tried, and what they find",
}


def measured(path: object) -> dict[str, float]:
    """Return the figures of twotower.serving.measure for the bundle at `path`, in a process without torch."""
    done = subprocess.run([sys.executable, "-m", "twotower.serving.measure", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the bundle can't be loaded in a process of its own: {done.stderr.strip()}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def bundle_readme(
    name: str,
    facts: Mapping[str, Any],
    figures: Mapping[str, float],
    golden: Mapping[str, Any],
    files: Collection[str],
) -> str:
    """Return the README as Markdown.

    Args:
        name: of the bundle's folder.
        facts: of the manifest.
        figures: of `measured`.
        golden: the content of GOLDEN_FILE.
        files: names of the bundle's files.
    """
    environment = Environment(
        loader=PackageLoader("twotower.exporting"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters |= {
        "repr": repr,
        "quote": lambda word: shlex.quote(str(word)),
        "code": code,
        "interval": _interval,
        "cell": _cell,
        "values": _values,
    }
    return environment.get_template("README.md.j2").render(
        name=name,
        example=facts["requests"]["example"],
        request=_request(facts["requests"]["example"]),
        facts={"item_tower": None, **facts},
        ranked=f" ({facts['ranked']})" if facts["ranked"] else "",
        measured=figures,
        golden=golden,
        item=item_of(golden["histories"][0][-1]),
        is_cosine=facts["similarity"] == fmt.COSINE,
        files={file: what for file, what in FILES.items() if file in files},
    )


def _interval(mean: list[float | None]) -> str:
    return with_interval(mean, ".4f")


def _request(example: Mapping[str, Any]) -> str:
    """The example as an HTTP request: see serving.http_request."""
    params = {name: json.dumps(v) if isinstance(v, dict) else v for name, v in example.items() if name != "histories"}
    body = {"inputs": example["histories"], "params": params}
    text = json.dumps(body, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(body)


def _values(entry: Mapping[str, Any]) -> str:
    """What a key or a column of the contract can hold, for a cell of a table."""
    if "unit" in entry:
        zone = entry.get("time_zone")
        return str(entry["unit"]) + (f"; hours and days are those of {zone}" if zone else "")
    if "from" in entry:
        return f"from {entry['from']} to {entry['to']}"
    more = entry.get("number of values", 0) - len(entry.get("values", []))
    known = ", ".join(map(_cell, entry.get("values", entry.get("edges", []))))
    return f"{'buckets with the edges ' if 'edges' in entry else ''}{known}{f' and {more:,} more' if more else ''}"


def _cell(value: object) -> str:
    return code(value).replace("|", "\\|")


def code(value: object) -> str:
    """Return a value as inline code in Markdown, whatever characters it has; others than printable ones are escaped.

    >>> code("a `b`")
    '`` a `b` ``'
    """
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if text.strip(" `") != text else f"{fence}{text}{fence}"
