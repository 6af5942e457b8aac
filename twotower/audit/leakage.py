"""Checks for leakage: what a model would know of its test before it is tested."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from twotower.audit.findings import Finding, error, format_timestamp, warning
from twotower.audit.measure import Context, Measures
from twotower.core.files import read_json
from twotower.core.schema import CATALOGUE_FILE, FEATURES_FILE, ORDINAL, Prepared, read_item_features

REMEDY = "Delete the prepared directory and prepare the events again"
LATE_SHARE = 0.01  # of the events before the test, where a split column decides
ODDS_RATIO, HITS = 3, 50  # from which on an input predicts the next item too well


def check_split(measures: Measures, statistics: Mapping[str, Any]) -> Iterator[Finding]:
    """Find events that train, validate or test at the wrong time, and sessions that a split column cuts."""
    kind, unit = statistics["split"]["kind"], statistics["timestamp_unit"]
    late, share = measures.late, measures.late / max(1, measures.before_test)
    figures = {"events": late, "share": share, "test_start": measures.test_start}
    start = format_timestamp(measures.test_start, unit)
    found = f"{late:,} training or validation events ({share:.2%}) are later than {start}, where the test begins"
    if kind == "temporal" and measures.misplaced:
        message = (
            f"{found}, and {measures.misplaced:,} events of all are in another part of the split than their time; "
            "expected none, as a model must not know the future, and a target of the past tells nothing of it. "
            f"{REMEDY}"
        )
        yield error("training_after_split", message, **figures, misplaced=measures.misplaced)
    elif kind == "predefined" and share > LATE_SHARE:
        message = (
            f"{found}; expected at most {LATE_SHARE:.0%}, as a model must not know the future of its test. Does the "
            "split column follow time? split=temporal does"
        )
        if unit == ORDINAL:
            message += " (the timestamps are ordinals: perhaps they do not compare between sessions)"
        yield (warning if unit == ORDINAL else error)("training_after_split", message, **figures)
    elif kind == "leave_one_out":
        message = (
            f"{found}: leave-one-out always trains on the future, so its metrics are too high. Use them only to "
            "compare with literature; split=temporal keeps the future out"
        )
        yield warning("training_after_split", message, **figures)
    mixed = measures.mixed_sessions
    if mixed and kind == "predefined":
        message = (
            f"{mixed:,} sessions have events in two parts of the split column; expected none, unless the test is about "
            "the rest of sessions whose beginning is known. Else give all events of a session the same label"
        )
        yield warning("session_in_two_parts", message, sessions=mixed)


def check_statistics(prepared: Prepared, measures: Measures) -> Iterator[Finding]:
    """Find counts and vocabularies that include events of the test."""
    import pyarrow.parquet as pq  # not on machines that only train

    counts = pq.read_table(prepared.path / CATALOGUE_FILE, columns=["train_count"])["train_count"].to_numpy()
    if wrong := int(np.count_nonzero(counts != measures.train_count)):
        message = (
            f"for {wrong:,} items the catalogue's train_count is not their number of training events; expected none, "
            f"as the counts must not include the test. {REMEDY}"
        )
        yield error("statistics_saw_test", message, items=wrong)
    encoders = read_json(prepared.path / FEATURES_FILE, "a prepared directory")
    occurrences = {name: (measures.codes[name].T, encoder) for name, encoder in encoders["events"].items()}
    arrays = read_item_features(prepared.path)
    for name, facts in prepared.manifest["item_features"].items():
        if facts["form"] == "bags":
            occurs = np.bincount(arrays[f"{name}.codes"], minlength=facts["size"])
            occurrences[name] = np.stack([occurs, np.ones_like(occurs)]), encoders["items"][name]
    for name, ((before_test, elsewhere), encoder) in occurrences.items():
        vocabulary = len(encoder.get("vocabulary") or ())  # its codes come last, after null and hash buckets
        is_word = np.arange(len(before_test)) >= len(before_test) - vocabulary
        if entries := int(np.count_nonzero((before_test == 0) & (elsewhere > 0) & is_word)):
            message = (
                f"{entries:,} of the {vocabulary:,} values in the vocabulary of the feature '{name}' do not occur "
                f"before the test; expected none, as the vocabulary must not include the test. {REMEDY}"
            )
            yield error("statistics_saw_test", message, feature=name, values=entries)


def check_contexts(contexts: Mapping[str, Context]) -> Iterator[Finding]:
    """Find event features that predict the item of the next event, which is the target.

    A feature is known together with its event, so it may predict that event's item, and the next one as far as that
    item does. One that predicts the next item much better than its own is shifted or filled in later: an error where it
    is also better than the item itself, else a warning.
    """
    for name, context in contexts.items():
        pairs = context.pairs
        by_code, of_this, by_item, popular = ((n + 0.5) / (pairs - n + 0.5) for n in context[1:])  # odds
        if context.next_by_code < HITS or by_code < ODDS_RATIO * max(of_this, popular):
            continue
        rates = {rule: hits / pairs for rule, hits in zip(context._fields[1:], context[1:], strict=True)}
        message = (
            f"the event feature '{name}' predicts the item of the next event in {rates['next_by_code']:.1%} of "
            f"{pairs:,} cases but that of its own event in {rates['this_by_code']:.1%}, and the item itself predicts "
            f"the next one in {rates['next_by_item']:.1%}; expected no feature that knows the target. Is the column "
            "shifted, or filled in later? Remove it from preparation.features.events"
        )
        level = error if by_code >= ODDS_RATIO * by_item else warning
        yield level("target_in_context", message, feature=name, pairs=pairs, **rates)
