"""The README inside a bundle, for the team that serves it: templates/README.md.j2 with the bundle's figures."""

import json
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined

from twotower.core.errors import UserError
from twotower.core.schema import AGE_DAYS, FEATURES_FILE, ITEM_COLUMNS, ITEMS_FILE, TOWER_FILE, TRAIN_COUNT
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
    columns: pa.Table,
    golden: Mapping[str, Any],
    files: Collection[str],
) -> str:
    """Return the README as Markdown.

    Args:
        name: of the bundle's folder.
        facts: of the manifest.
        figures: of `measured`.
        columns: [V] the columns of items.parquet but the vectors.
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
        "interval": lambda mean: with_interval(mean, ".4f"),
        "cell": lambda text: text.replace("|", "\\|"),
    }
    features = [column for column in columns.column_names if column not in ITEM_COLUMNS]
    return environment.get_template("README.md.j2").render(
        name=name,
        facts={"item_tower": None, **facts},
        ranked=f" ({facts['ranked']})" if facts["ranked"] else "",
        measured=figures,
        golden=golden,
        history=[item_of(event) for event in golden["histories"][0][-3:]],
        is_cosine=facts["similarity"] == fmt.COSINE,
        columns=[*features, AGE_DAYS, TRAIN_COUNT],
        example_filter=next(filter(None, (_example_filter(columns, column) for column in features)), None),
        files={file: what for file, what in FILES.items() if file in files},
    )


def _example_filter(columns: pa.Table, name: str) -> str | None:
    """A filter for the first text of a column; None where it has none."""
    values = columns[name].drop_null()
    return f'{{"{name}": {values[0].as_py()!r}}}' if len(values) and pa.types.is_string(values.type) else None
