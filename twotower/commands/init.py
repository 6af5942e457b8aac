"""Write a settings file for your own events, from a look at them: conf/experiment/NAME.yaml

    twotower init myshop events.csv --items items.csv
    twotower train --config-dir conf experiment=myshop

Columns are recognised by their names and values; the file says in comments what was seen, and is yours to edit.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twotower.core.command_line import command, override
from twotower.core.errors import UserError
from twotower.core.files import write_bytes
from twotower.core.schema import EVENT_TYPE, ITEM_ID, TIMESTAMP
from twotower.data.recognise import Proposal, Recognised, id_column, propose, read_sample, recognise_events
from twotower.data.timestamps import choose_unit, count_units

UNITS = {"date": "dates", "ordinal": "numbers that tell the order alone: data.timestamp_unit says otherwise"}


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="twotower init", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the experiment: letters, digits, - and _")
    parser.add_argument("events", help="Parquet, CSV or JSON Lines; a file, a folder or a quoted glob")
    parser.add_argument("--items", help="a table with a row for each item: its id and features")
    parser.add_argument("--users", help="a table with a row for each user")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="COLUMN=NAME",
        help="item_id=sku: what your events call a column",
    )
    parser.add_argument("--config-dir", default="conf", help="folder of the file (default: %(default)s)")
    options = parser.parse_args(arguments)
    given = dict(_pair(text) for text in options.column)
    file = write_experiment(options.name, options.events, options.items, options.users, given, Path(options.config_dir))
    print(f"wrote {file}; look through it, then train")
    folder = file.parent.parent
    print("next:", command("train", "--config-dir", folder, override("experiment", options.name)))
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, separator, column = text.partition("=")
    if not separator:
        raise UserError(f"--column {text}: expected COLUMN=NAME, such as item_id=sku")
    return name, column


def write_experiment(
    name: str, events: str, items: str | None, users: str | None, given: dict[str, str], folder: Path
) -> Path:
    """Look at the files, print what was recognised, and write FOLDER/experiment/NAME.yaml.

    Raises:
        UserError: the name is not one for a file, the file exists already, a file can't be read, or its columns can't
            be recognised.
    """
    file = (folder / "experiment" / f"{name}.yaml").resolve()
    if not re.fullmatch(r"\w[\w-]*", name, re.ASCII):
        raise UserError(f"name {name!r}: expected letters, digits, - and _")
    if file.exists():
        raise UserError(f"{file} exists already; delete it, or take another name")
    sample = read_sample(events, "EVENTS")
    table = read_sample(items, "--items") if items else None
    found = recognise_events(sample, table, given)
    for name_here, (column, reason) in found.items():
        print(f"{name_here:<12}{column}  ({reason})")
    unused = [column for column in sample.columns if column not in dict(found.values())]
    hint = "" if EVENT_TYPE in found else f"  (is one the event type? --column {EVENT_TYPE}=NAME)"
    if unused:
        print(f"not used    {', '.join(unused)}{hint}")
    lines = [
        "# @package _global_",
        f"# {name}: written by `twotower init` from a look at {Path(events).name}; yours to edit.",
        f"# Train: twotower train --config-dir {folder} experiment={name}   All settings: twotower train --cfg job",
        "defaults:",
        "  - override /data: events",
    ]
    features = _features(table, items, sample[found[ITEM_ID][0]], found) if table is not None and items else []
    if any(f.spec for f in features):
        lines.append("  - override /model/item_tower: features")
    counts = sample[found[EVENT_TYPE][0]].value_counts(sort=True).rows() if EVENT_TYPE in found else []
    if len(counts) > 1:
        lines.append("  - override /model/objective: by_type # requests may ask for an event type")
    lines += ["", f"name: {name}", *_data(sample, found, {"path": events, "items": items, "users": users})]
    lines += [*_preparation(features), *_event_types(counts, len(sample))]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, ("\n".join(lines) + "\n").encode())
    return file


def _data(sample: Any, found: Recognised, paths: dict[str, str | None]) -> list[str]:
    lines = ["data:"]
    lines += [f"  {key}: {_text(str(Path(path).expanduser().absolute()))}" for key, path in paths.items() if path]
    lines.append("  columns:")
    for name, (column, reason) in found.items():
        if name == TIMESTAMP:
            unit = choose_unit(count_units(sample[column]), "auto")
            reason += f"; {UNITS.get(unit, f'{unit} since 1970')}"
        lines.append(f"    {name}: {_text(column)} # {reason}")
    unused = [column for column in sample.columns if column not in dict(found.values())]
    return lines + ([f"  # not used of the events: {', '.join(map(_text, unused))}"] if unused else [])


def _preparation(features: list[Proposal]) -> list[str]:
    gap = "  session_gap_minutes: 30 # a longer pause ends a user's session; not used where there is a session column"
    bounce = "  # bounce: {event_type: view, seconds: 3} # a view left so soon becomes an event type of its own"
    lines = ["preparation:", gap, bounce]
    if any(f.spec for f in features):
        lines += ["  features:", "    items:"]
    for name, spec, reason in features:
        if spec:
            settings = ", ".join(f"{key}: {_text(v) if isinstance(v, str) else v}" for key, v in spec.items())
            lines.append(f"      {name}: {{{settings}}} # {reason}")
            print(f"feature     {name}: {spec['kind']}  ({reason})")
        else:
            lines.append(f"      # {name} is left out: {reason}")
    return lines


def _features(table: Any, path: str, ids: Any, found: Recognised) -> list[Proposal]:
    """Proposals for the item table's columns; raises UserError where its ids are not those of the events."""
    key, share = id_column(table, ids)
    names = (ITEM_ID, found[ITEM_ID][0])
    if key not in names:
        raise UserError(
            f"{path}: the ids of items are expected in a column {' or '.join(dict.fromkeys(names))}; "
            + (
                f"{key} has {share:.0%} of the events' items: rename it"
                if key and share
                else "no column has any of them"
            )
        )
    print(f"items       {key}  ({share:.0%} of the events' items have a row)")
    left = [c for c in table.get_columns() if c.name not in (key, TIMESTAMP, found[TIMESTAMP][0])]
    return [propose(column, place) for place, column in enumerate(left, start=1)]


def _event_types(counts: list[tuple[Any, int]], rows: int) -> list[str]:
    """What the user tower is told of events, and a line on the weights of event types, of which there are `counts`."""
    inputs = "# also gap (the time between events), hour and weekday"
    if len(counts) < 2:
        return ["model:", f"  inputs: [] {inputs}"]
    seen = ", ".join(f"{kind} {count:,}" for kind, count in counts[:10])
    print(f"types       {seen}")
    return [
        "model:",
        f"  inputs: [event_type] {inputs}",
        f"# Event types in the first {rows:,} rows: {seen}",
        f"# target_weights: {{{_text(str(counts[-1][0]))}: 3}} # types weigh 1; 0: no target; below 0: pushed down",
    ]


def _text(value: str) -> str:
    """A string in YAML, in which OmegaConf sees no interpolation."""
    if re.fullmatch(r"[A-Za-z_][\w.-]*", value, re.ASCII) and value.lower() not in (
        "null",
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
    ):
        return value
    return json.dumps(value.replace("${", "\\${"), ensure_ascii=False)
