"""What the audit measures, against loops over events."""

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from audited_log import DAY, Log

from twotower.audit import measure
from twotower.audit.measure import Context
from twotower.core.schema import Prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Sessions of 1 to 7 events, parts that do not follow time, and an input that tells some of the next item."""
    rng = np.random.default_rng(3)
    log = Log()
    log.session = np.repeat(np.arange(3000), rng.integers(1, 8, 3000))
    events = len(log.session)
    log.item = np.minimum(rng.geometric(0.1, events), 50)
    log.device = np.where(rng.random(events) < 0.7, np.roll(log.item, -1) % 6, rng.integers(0, 6, events))
    log.vocabularies["device"] = list("abcd")
    log.type = np.ones(events, dtype=np.int64)
    log.time = np.sort(rng.integers(0, 50 * DAY, events)) // 500 * 500
    log.part = np.minimum(rng.integers(0, 3, 3000).repeat(np.bincount(log.session)), 2)
    last = np.append(np.diff(log.session) > 0, True)
    log.part = np.where(last & (rng.random(events) < 0.2), 2, log.part)
    log.counted = log.part == 0
    return log.write(tmp_path_factory.mktemp("measure") / "prepared")[0]


def sessions(prepared: Prepared) -> list[list[tuple[int, int, int, int]]]:
    """Each event's item, time, part and device."""
    found = []
    for s in range(len(prepared.offsets) - 1):
        begin, train, known, end = (
            int(array[s + shift])
            for array, shift in (
                (prepared.offsets, 0),
                (prepared.train_end, 0),
                (prepared.validation_end, 0),
                (prepared.offsets, 1),
            )
        )
        parts = [0] * (train - begin) + [1] * (known - train) + [2] * (end - known)
        rows = zip(
            prepared.item_index[begin:end].tolist(),
            prepared.timestamp[begin:end].tolist(),
            parts,
            prepared.inputs["device"][begin:end].tolist(),
            strict=True,
        )
        found.append(list(rows))
    return found


@pytest.mark.parametrize("block", [37, 10**6])
def test_counts(prepared: Prepared, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(measure, "BLOCK", block)
    split = {"test_start": 30 * DAY, "validation_start": 20 * DAY}
    found = measure.measure(prepared, split, earliest=10 * DAY, latest=40 * DAY)
    rows = sessions(prepared)
    events = [event for session in rows for event in session]
    assert found.before_test == sum(p < 2 for _, _, p, _ in events)
    assert found.late == sum(p < 2 and t > 30 * DAY for _, t, p, _ in events)
    assert found.misplaced == sum(p != (t >= 20 * DAY) + (t >= 30 * DAY) for _, t, p, _ in events)
    assert found.early == sum(t < 10 * DAY for _, t, _, _ in events)
    assert found.future == sum(t > 40 * DAY for _, t, _, _ in events)
    assert found.whole_minutes == sum(t % 60_000 == 0 for _, t, _, _ in events)
    assert found.mixed_sessions == sum(len({p == 2 for _, _, p, _ in session}) > 1 for session in rows)
    labelled = measure.measure(prepared, {"kind": "predefined"}, 0, 1)
    assert labelled.mixed_sessions == sum(len({p for _, _, p, _ in session}) > 1 for session in rows)
    assert labelled.misplaced == 0
    assert found.queries == sum(p == 2 for session in rows for _, _, p, _ in session[1:])
    trained = Counter(i for i, _, p, _ in events if p == 0)
    assert found.train_count.tolist() == [trained[i] for i in range(1, 51)]
    for column in (0, 1):
        devices = Counter(d for _, _, p, d in events if (p == 2) == column)
        assert found.codes["device"][:, column].tolist() == [devices[d] for d in range(6)]


def test_where_no_moment_is_given_the_test_begins_with_its_first_event(prepared: Prepared) -> None:
    first = min(t for session in sessions(prepared) for _, t, p, _ in session if p == 2)
    assert measure.measure(prepared, {"kind": "predefined"}, 0, 1).test_start == first


def rule(pairs: list[tuple[int, int]]) -> Any:
    """The commonest value of a key, the greatest of several; for unknown keys of all, the smallest of several."""
    values: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for key, value in pairs:
        values[key][value] += 1
    best = {key: max(count, key=lambda v: (count[v], v)) for key, count in values.items()}
    everything = Counter(value for _, value in pairs)
    commonest = max(everything, key=lambda v: (everything[v], -v))
    return lambda key: best.get(key, commonest)


@pytest.mark.parametrize(("block", "sample"), [(10**6, 10**6), (101, 10**6), (101, 5000)])
def test_contexts(prepared: Prepared, monkeypatch: pytest.MonkeyPatch, block: int, sample: int) -> None:
    monkeypatch.setattr(measure, "BLOCK", block)
    monkeypatch.setattr(measure, "SAMPLE", sample)
    step = -(-len(prepared.item_index) // sample)
    halves: tuple[list[tuple[int, int, int]], ...] = ([], [])
    for number, session in enumerate(sessions(prepared)):
        for (own, _, _, device), (following, _, _, _) in pairwise(session):
            if number // 2 % step == 0 and own != following and device:
                halves[number % 2].append((device, own, following))
    learn, check = halves
    tells = [
        lambda d, own, following: (d, following),
        lambda d, own, following: (d, own),
        lambda d, own, following: (own, following),
        lambda d, own, following: (0, following),
    ]
    hits = []
    for tell in tells:
        best = rule([tell(*event) for event in learn])
        hits.append(sum(best(key) == value for key, value in (tell(*event) for event in check)))
    found = measure.measure(prepared, {"test_start": 0}, 0, 1).contexts
    assert found == {"device": Context(len(check), *hits)}
    assert hits[0] > 1.5 * hits[1] > 0
