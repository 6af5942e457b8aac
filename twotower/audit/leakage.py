"""The leakage linter: what a model would know of its test before it is tested."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from twotower.audit.findings import ORDINAL, Finding, error, moment, warning
from twotower.audit.measure import Context, Measures
from twotower.core.files import read_json
from twotower.core.schema import CATALOGUE_FILE, FEATURES_FILE, Prepared, read_item_features

AGAIN = "Delete the prepared directory and prepare the events again"
LATE_SHARE = 0.01  # of the events to learn from, where a split column decides
ODDS_RATIO, HITS = 3, 50  # what makes an input too good at telling the next item


def check_split(measures: Measures, statistics: Mapping[str, Any]) -> Iterator[Finding]:
    """Events to learn from that are later than the test, and sessions with events in two parts."""
    kind, unit = statistics["split"]["kind"], statistics["timestamp_unit"]
    late, share = measures.late, measures.late / max(1, measures.learnt)
    start = moment(measures.test_start, unit)
    figures = {"events": late, "share": share, "test_start": measures.test_start}
    found = f"{late:,} events to learn from ({share:.2%}) are later than {start}, where the test begins"
    if kind == "temporal" and late + measures.late_training:
        after = measures.late_training
        message = (
            f"{found}, and {after:,} training events are later than where the validation begins; expected none, for a "
            f"model must not know the future. {AGAIN}"
        )
        yield error("training_after_split", message, **figures, after_validation_start=after)
    elif kind == "predefined" and share > LATE_SHARE:
        message = (
            f"{found}; expected at most {LATE_SHARE:.0%}, for a model must not know the future of its test. Does the "
            "split column follow time? split=temporal does"
        )
        if unit == ORDINAL:
            message += " (the timestamps are ordinals: perhaps they do not compare between sessions)"
            yield warning("training_after_split", message, **figures)
        else:
            yield error("training_after_split", message, **figures)
    elif kind == "leave_one_out":
        message = (
            f"{found}: leave-one-out is made so, and flatters. Take its figures for comparison with literature only; "
            "split=temporal keeps the future out"
        )
        yield warning("training_after_split", message, **figures)
    mixed = measures.mixed_sessions
    if mixed and kind == "temporal":
        message = f"{mixed:,} sessions have events in two parts of the split; expected none. {AGAIN}"
        yield error("session_in_two_parts", message, sessions=mixed)
    elif mixed and kind == "predefined":
        message = (
            f"{mixed:,} sessions have events in two parts of the split column; expected none, unless the test asks how "
            "sessions that had begun go on. Else label whole sessions"
        )
        yield warning("session_in_two_parts", message, sessions=mixed)


def check_statistics(prepared: Prepared, measures: Measures) -> Iterator[Finding]:
    """Counts and vocabularies that hold more than a model may learn from."""
    import pyarrow.parquet as pq  # not on machines that only train

    counts = pq.read_table(prepared.path / CATALOGUE_FILE, columns=["train_count"])["train_count"].to_numpy()
    if wrong := int(np.count_nonzero(counts != measures.train_count)):
        message = (
            f"for {wrong:,} items the catalogue's train_count is not their number of training events; expected none, "
            f"for the counts must not have seen the test. {AGAIN}"
        )
        yield error("statistics_saw_test", message, items=wrong)
    encoders = read_json(prepared.path / FEATURES_FILE, "a prepared directory")
    unseen = {name: (measures.codes[name].T, encoder) for name, encoder in encoders["events"].items()}
    arrays = read_item_features(prepared.path)
    for name, facts in prepared.manifest["item_features"].items():
        if facts["form"] == "bags":
            occurs = np.bincount(arrays[f"{name}.codes"], minlength=facts["size"])
            unseen[name] = np.stack([occurs, np.ones_like(occurs)]), encoders["items"][name]
    for name, ((learnt, elsewhere), encoder) in unseen.items():
        vocabulary = len(encoder.get("vocabulary") or ())  # its codes come last, after null and hash buckets
        of_test = (learnt == 0) & (elsewhere > 0) & (np.arange(len(learnt)) >= len(learnt) - vocabulary)
        if entries := int(np.count_nonzero(of_test)):
            message = (
                f"{entries:,} of the {vocabulary:,} values in the vocabulary of the feature '{name}' occur nowhere in "
                f"what a model learns from; expected none, for the vocabulary must not have seen the test. {AGAIN}"
            )
            yield error("statistics_saw_test", message, feature=name, values=entries)


def check_contexts(contexts: Mapping[str, Context]) -> Iterator[Finding]:
    """Event features that tell the next event's item, which is what is to be predicted.

    An input is known with its own event, so it may tell that event's item, and the next one as far as that item does.
    One that tells the next item much better than its own is shifted or filled in later: an error where it also beats
    what the item itself tells, else a warning.
    """
    for name, context in contexts.items():
        pairs = context.pairs
        told, own, by_item, popular = ((n + 0.5) / (pairs - n + 0.5) for n in context[1:])  # odds
        if context.next_by_code < HITS or told < ODDS_RATIO * max(own, popular):
            continue
        rates = {rule: hits / pairs for rule, hits in zip(context._fields[1:], context[1:], strict=True)}
        message = (
            f"the event feature '{name}' tells the next event's item in {rates['next_by_code']:.1%} of {pairs:,} cases "
            f"but its own event's in {rates['own_by_code']:.1%}, and the item itself tells the next one in "
            f"{rates['next_by_item']:.1%}; expected no feature that knows what is to be predicted. Is the column "
            "shifted, or filled in later? Take it out of preparation.features.events"
        )
        level = error if told >= ODDS_RATIO * by_item else warning
        yield level("target_in_context", message, feature=name, pairs=pairs, **rates)
