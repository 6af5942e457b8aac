"""Which queries belong together, so that a mean can be told for each kind. Shapes: Q queries, E events, V items."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.inputs import GAP, HOUR, MS_PER_DAY, WEEKDAY
from twotower.core.schema import Prepared

Array = npt.NDArray[Any]
POPULARITY, LENGTH, AGE = "popularity", "history length", "days since training"
LENGTHS = (1, 2, 3, 5, 10, 20)  # the shortest history of each group
HEAD, TORSO = 0.5, 0.8  # the most popular items, up to these shares of the training events
DAYS = 10  # after training that are told apart
LARGEST = 12  # groups of a feature that are told apart; the rest is one more
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class QueryFacts(NamedTuple):
    """What is known of each query, whoever answers it."""

    session: Array  # [Q]
    length: Array  # [Q] events of the session before the target
    target: Array  # [Q] item_index
    event: Array  # [Q] position of the target among the prepared events


class Grouping(NamedTuple):
    """Queries of one kind have one code."""

    name: str
    groups: list[str]  # by code
    code: Array  # [Q]; -1: in no group

    def used(self) -> list[str]:
        """The groups up to the last one that any query is in, as intervals.means counts them."""
        return self.groups[: int(self.code.max(initial=-1)) + 1]


def query_facts(prepared: Prepared, event: Array) -> QueryFacts:
    """Look queries up by their targets' positions [Q]."""
    session = np.searchsorted(prepared.offsets, event, side="right") - 1
    return QueryFacts(session, event - prepared.offsets[session], np.asarray(prepared.item_index[event]), event)


def groupings_of(
    prepared: Prepared,
    counts: Array,
    learnt_until: int,
    features: Sequence[Grouping],
    event_encoders: Mapping[str, Mapping[str, Any]],
    facts: QueryFacts,
) -> list[Grouping]:
    """By the target's popularity, the history's length, days since training, user, event type, hour, weekday, features.

    What can change within a session is that of the history's newest event: then the query is asked.

    Args:
        prepared: the events.
        counts: [V + 1] training events of each item_index.
        learnt_until: the time of the newest training event, ms.
        features: of the items, see feature_groupings.
        event_encoders: of the features of events, by name.
        facts: of the queries.
    """
    found = [by_popularity(counts, facts.target), by_length(facts.length)]
    if GAP in prepared.inputs:  # else timestamps tell the order alone
        found.append(by_age(np.asarray(prepared.timestamp[facts.event]) - learnt_until))
    found.append(Grouping("user", ["new", "returning"], prepared.returning[facts.session].astype(np.int64) - 1))
    if len(prepared.event_types) > 1:
        types = np.asarray(prepared.event_type[facts.event], dtype=np.int64)
        found.append(Grouping("event type", prepared.event_types, types))
    before = facts.event - 1
    if HOUR in prepared.inputs:
        hour = prepared.inputs[HOUR][before].astype(np.int64) - 1
        found.append(Grouping("hour of the day", [f"{h}:00" for h in range(24)], hour))
    if WEEKDAY in prepared.inputs:
        weekday = prepared.inputs[WEEKDAY][before].astype(np.int64) - 1
        found.append(Grouping("weekday", list(WEEKDAYS), weekday))
    for name, encoder in event_encoders.items():
        groups = groups_of(encoder)
        if groups and name in prepared.inputs:
            found.append(largest(Grouping(name, groups, prepared.inputs[name][before].astype(np.int64))))
    found += [largest(grouping._replace(code=grouping.code[facts.target])) for grouping in features]
    return [grouping for grouping in found if (grouping.code >= 0).any()]


def feature_groupings(encoders: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, Array]) -> list[Grouping]:
    """Items by each feature that has one code an item: code [V + 1] by item_index.

    Args:
        encoders: of the items' features, by name (see twotower.features).
        arrays: the items' codes (schema.ITEM_FEATURES_FILE).
    """
    found = []
    for name, encoder in encoders.items():
        groups = groups_of(encoder)
        if groups:
            code = np.concatenate([[-1], arrays[f"{name}.codes"].astype(np.int64)])
            found.append(Grouping(name, groups, code))
    return found


def groups_of(encoder: Mapping[str, Any]) -> list[str] | None:
    """What the codes of a feature mean, from 0 on; None where an item or an event may have several, or numbers."""
    if encoder["kind"] == "categorical":
        return ["unknown", *(["other"] * encoder["out_of_vocabulary"]), *encoder["vocabulary"]]
    if "edges" not in encoder:
        return None
    edges = [f"{edge:g}" for edge in encoder["edges"]]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return ["unknown", *([f"below {edges[0]}", *between, f"{edges[-1]} or more"] if edges else ["known"])]


def by_popularity(counts: Array, target: Array) -> Grouping:
    """Head: the most popular items, which together have half of the training events; torso: up to 80 %; tail; cold."""
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # events of all that is more popular
    code = np.empty(len(counts), dtype=np.int64)
    share = before / max(1, counts.sum())
    code[order] = np.where(counts[order] == 0, 3, (share >= HEAD).astype(int) + (share >= TORSO))
    return Grouping(POPULARITY, ["head", "torso", "tail", "cold"], code[target])


def by_length(length: Array) -> Grouping:
    """By the events before the target."""
    ends = [*(following - 1 for following in LENGTHS[1:]), None]
    names = [
        f"{begin} or more" if end is None else str(begin) if end == begin else f"{begin} to {end}"
        for begin, end in zip(LENGTHS, ends, strict=True)
    ]
    return Grouping(LENGTH, names, np.searchsorted(LENGTHS, length, side="right") - 1)


def by_age(since: Array) -> Grouping:
    """By the time since training [Q], ms: how the model ages."""
    names = [*(f"day {d}" for d in range(1, DAYS + 1)), "later"]
    return Grouping(AGE, names, np.clip(since // MS_PER_DAY, 0, DAYS))


def largest(grouping: Grouping, most: int = LARGEST) -> Grouping:
    """The `most` groups with the most queries, and all others as one."""
    size = np.bincount(grouping.code[grouping.code >= 0], minlength=len(grouping.groups))
    order = np.argsort(-size, kind="stable")
    order = order[size[order] > 0]
    kept, rest = order[:most], order[most:]
    number = np.full(len(grouping.groups), len(kept))
    number[kept] = np.arange(len(kept))
    names = [grouping.groups[k] for k in kept] + ([f"{len(rest)} others"] if len(rest) else [])
    return Grouping(grouping.name, names, np.where(grouping.code >= 0, number[grouping.code], -1))
