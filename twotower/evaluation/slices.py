"""Slices: groups of queries, so that metrics can be reported for each. Shapes: Q queries, V items."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.event_codes import GAP, HOUR, MS_PER_DAY, WEEKDAY
from twotower.core.schema import Prepared
from twotower.metrics.candidates import Candidates
from twotower.metrics.ranking_metrics import TARGETS

Array = npt.NDArray[Any]
POPULARITY, LENGTH, AGE, EVENT_TYPES = "popularity", "history length", "days since training", "event type"
TARGET = "target"  # repeated, or new
LENGTHS = {"1": 1, "2": 2, "3 to 4": 3, "5 to 9": 5, "10 to 19": 10, "20 or more": 20}  # the shortest of each group
HEAD, TORSO = 0.5, 0.8  # the most popular items, up to these shares of the training events
ITEM_AGE, ITEM_AGES = "item's first event", {"up to a week ago": 7, "up to a month ago": 30}  # days
DAYS = 10  # after training that have a group each
MOST_GROUPS = 12  # of a feature; all others form one more
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class QueryFacts(NamedTuple):
    """Facts of each query that do not depend on the model."""

    session: Array  # [Q]
    length: Array  # [Q] events of the session before the target
    target: Array  # [Q] item_index
    event: Array  # [Q] position of the target among the prepared events
    is_repeat: Array  # [Q] whether the target is in its history


class Grouping(NamedTuple):
    """A partition of queries (or of items) into named groups.

    >>> Grouping("user", ["new", "returning", "lapsed"], code=np.array([0, 1, -1])).used()
    ['new', 'returning']
    """

    name: str
    groups: list[str]  # by code
    code: Array  # [Q]; -1: in no group

    def used(self) -> list[str]:
        """Return the groups up to the last one that has a query: those of intervals.bootstrap_means."""
        return self.groups[: int(self.code.max(initial=-1)) + 1]


def query_facts(prepared: Prepared, event: Array) -> QueryFacts:
    """Look queries up by the positions of their targets [Q]."""
    session = np.searchsorted(prepared.offsets, event, side="right") - 1
    is_repeat = Candidates(prepared.item_index, prepared.offsets).is_repeat(event)
    return QueryFacts(
        session, event - prepared.offsets[session], np.asarray(prepared.item_index[event]), event, is_repeat
    )


def groupings_of(
    prepared: Prepared,
    counts: Array,
    trained_until: int,
    features: Sequence[Grouping],
    event_encoders: Mapping[str, Mapping[str, Any]],
    facts: QueryFacts,
) -> list[Grouping]:
    """Group queries by what is known of target, history, user, time, event type and features.

    What can change within a session is that of the history's newest event, when the query is asked.

    Args:
        prepared: the events.
        counts: [V + 1] training events of each item_index.
        trained_until: the time of the newest training event, ms.
        features: of the items, see feature_groupings.
        event_encoders: of the features of events, by name.
        facts: of the queries.
    """
    newest = facts.event - 1

    def input_codes(name: str) -> Array:
        codes: Array = prepared.inputs[name][newest].astype(np.int64)
        return codes

    repeats = Grouping(TARGET, list(TARGETS), 1 - facts.is_repeat.astype(np.int64))
    groupings = [repeats, by_popularity(counts, facts.target), by_length(facts.length)]
    if GAP in prepared.inputs:  # else timestamps are only an order
        asked = np.asarray(prepared.timestamp[facts.event])
        groupings.append(by_age(asked - trained_until))
        groupings.append(by_item_age(prepared, facts.target, asked))
    groupings.append(Grouping("user", ["new", "returning"], prepared.returning[facts.session].astype(np.int64) - 1))
    if len(prepared.event_types) > 1:
        types = np.asarray(prepared.event_type[facts.event], dtype=np.int64)
        groupings.append(Grouping(EVENT_TYPES, prepared.event_types, types))
    if HOUR in prepared.inputs:
        groupings.append(Grouping("hour of the day", [f"{h}:00" for h in range(24)], input_codes(HOUR) - 1))
    if WEEKDAY in prepared.inputs:
        groupings.append(Grouping("weekday", list(WEEKDAYS), input_codes(WEEKDAY) - 1))
    for name, encoder in event_encoders.items():
        groups = group_names(encoder)
        if groups and name in prepared.inputs:
            groupings.append(largest(Grouping(name, groups, input_codes(name))))
    groupings += [largest(feature._replace(code=feature.code[facts.target])) for feature in features]
    return [grouping for grouping in groupings if (grouping.code >= 0).any()]


def feature_groupings(encoders: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, Array]) -> list[Grouping]:
    """Group items [V + 1] by each feature that has one code an item.

    Args:
        encoders: of the items' features, by name (see twotower.features).
        arrays: the items' codes (schema.ITEM_FEATURES_FILE).
    """
    named = ((name, group_names(encoder)) for name, encoder in encoders.items())
    return [
        Grouping(name, groups, np.concatenate([[-1], arrays[f"{name}.codes"].astype(np.int64)]))
        for name, groups in named
        if groups
    ]


def group_names(encoder: Mapping[str, Any]) -> list[str] | None:
    """Return the names of a feature's codes, from 0 on; None where there may be several codes, or numbers instead."""
    if encoder["kind"] == "categorical":
        return ["unknown", *(["other"] * encoder["out_of_vocabulary"]), *encoder["vocabulary"]]
    if "edges" not in encoder:
        return None
    edges = [f"{edge:g}" for edge in encoder["edges"]]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return ["unknown", *([f"below {edges[0]}", *between, f"{edges[-1]} or more"] if edges else ["known"])]


def by_popularity(counts: Array, target: Array) -> Grouping:
    """Group queries by popularity of the target.

    Head: the most popular items, with half of the training events together; torso: up to 80 %; tail: the rest; cold:
    items without training events.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # events of all more popular items
    code = np.empty(len(counts), dtype=np.int64)
    share = before / max(1, counts.sum())
    code[order] = np.where(counts[order] == 0, 3, (share >= HEAD).astype(int) + (share >= TORSO))
    return Grouping(POPULARITY, ["head", "torso", "tail", "cold"], code[target])


def by_length(length: Array) -> Grouping:
    """Group queries by the number of events before the target [Q]."""
    return Grouping(LENGTH, list(LENGTHS), np.searchsorted(list(LENGTHS.values()), length, side="right") - 1)


def by_age(since: Array) -> Grouping:
    """Group queries by the time since training [Q], ms."""
    names = [*(f"day {d}" for d in range(1, DAYS + 1)), "later"]
    return Grouping(AGE, names, np.clip(since // MS_PER_DAY, 0, DAYS))


def by_item_age(prepared: Prepared, target: Array, asked: Array) -> Grouping:
    """Group queries by the time from the first event of the target [Q] to the query [Q], ms."""
    first = np.full(prepared.num_items + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, prepared.item_index, prepared.timestamp)
    days = (asked - first[target]) / MS_PER_DAY
    code = np.searchsorted(list(ITEM_AGES.values()), days, side="right")
    return Grouping(ITEM_AGE, [*ITEM_AGES, "longer ago"], code)


def largest(grouping: Grouping, most: int = MOST_GROUPS) -> Grouping:
    """Keep the `most` groups with the most queries, and merge all others into one."""
    size = np.bincount(grouping.code[grouping.code >= 0], minlength=len(grouping.groups))
    order = np.argsort(-size, kind="stable")
    order = order[size[order] > 0]
    kept, rest = order[:most], order[most:]
    number = np.full(len(grouping.groups), len(kept))
    number[kept] = np.arange(len(kept))
    names = [grouping.groups[k] for k in kept] + ([f"{len(rest)} others"] if len(rest) else [])
    return Grouping(grouping.name, names, np.where(grouping.code >= 0, number[grouping.code], -1))
