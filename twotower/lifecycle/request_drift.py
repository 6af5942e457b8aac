"""Drift between a bundle and live requests: what they name and the bundle does not have, from a log of impressions."""

import json

import polars as pl

from twotower.lifecycle.drift import Row
from twotower.lifecycle.replay import lists_of
from twotower.serving.bundle import Bundle
from twotower.serving.impressions import HISTORY
from twotower.serving.retriever import Retriever

OF_EVENTS = ("ids in histories", "event types", "values of ")  # kinds of serving.unknown of which an event has one


def request_drift(bundle: Bundle, log: pl.DataFrame, most_unknown: float) -> list[Row]:
    """Ask the bundle all logged requests, and tell what it did not know of them.

    Args:
        bundle: opened; the one that was asked, or another.
        log: see impression_log.read_impressions.
        most_unknown: share of the histories' events whose item, type or value may be unknown.

    Returns:
        A row for each kind of serving.unknown; of those that are not of events the value is the number by request.
    """
    retriever = Retriever(bundle)
    asked = log.filter(pl.col("item_ids").list.len() > 0)
    lists_of(retriever, asked)
    events = sum(len(json.loads(text)[HISTORY]) for text in asked["request"])
    rows = []
    for kind, count in {OF_EVENTS[0]: 0, **retriever.unknown}.items():
        limited = kind.startswith(OF_EVENTS)
        number, unit = (events, "events") if limited else (asked.height, "requests")
        note = f"{count:,} in {number:,} {unit}"
        rows.append(Row(f"unknown {kind}", count / max(1, number), None, most_unknown if limited else None, note))
    return rows
