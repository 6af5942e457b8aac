"""Which weights of a model fit another, on other data: rows of tables by what they stand for, the rest as it is.

Shapes: V items, D embedding dim, R rows that match.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from twotower.core.arrays import Array, Floats, Ints
from twotower.core.event_codes import EVENT_TYPE, SIZES
from twotower.features.matching import NONE, matching_codes, matching_numbers

ITEM_TOWER, HISTORY_TOWER = "item_tower.", "history_tower."
NO_ROWS = np.empty(0, dtype=np.int64)


class Vocabulary(NamedTuple):
    """What the rows of a model's tables stand for."""

    items: int  # V
    features: Mapping[str, Any]  # event types, and the encoders of "events" and "items": schema.FEATURES_FILE
    inputs: Sequence[str]  # event inputs with an embedding, in the model's order
    item_features: Mapping[str, Array]  # schema.ITEM_FEATURES_FILE


class Match(NamedTuple):
    """Rows of a weight, or columns, that stand for the same in another model's weight."""

    what: str  # the rows are, in words
    name: str  # of the weight
    place: str  # its name in the other model
    rows: Ints  # [R]
    other_rows: Ints  # [R]
    new: int  # how many have no match here
    gone: int  # and there
    factor: Floats | None = None  # [R] of columns; None: rows


class Matched(NamedTuple):
    """A new model's weights, and how they were come by."""

    weights: dict[str, Tensor]
    matches: list[Match]
    fresh: list[str]  # weights that the other model does not have
    misfits: dict[str, tuple[list[int], list[int]]]  # shapes here and there, where they differ


def matched_weights(
    weights: Mapping[str, Tensor], others: Mapping[str, Tensor], items: Ints, here: Vocabulary, there: Vocabulary
) -> Matched:
    """Return weights by name, with those of another model where they fit.

    Args:
        weights: of the new model, as they begin.
        others: of the other model; where that is tied and the new one is not, its tower fits both.
        items: [V + 1] its item_index for each new one, 0 where it has none.
        here, there: what rows stand for in the new and the other model.
    """
    tower = {name: weight for name, weight in others.items() if name.startswith(ITEM_TOWER)}
    others = {HISTORY_TOWER + name.removeprefix(ITEM_TOWER): weight for name, weight in tower.items()} | dict(others)
    matches = [*_feature_rows(here, there), *_event_rows(here, there)]
    of_items = {name: weight for name, weight in weights.items() if name not in {match.name for match in matches}}
    matches += _item_rows(of_items, others, items, there)
    result = Matched({}, [], [], {})
    for name, weight in weights.items():
        of_rows = [match for match in matches if match.name == name]
        place = of_rows[0].place if of_rows else name
        if name.startswith((ITEM_TOWER, HISTORY_TOWER)) and weight.dtype == torch.bool:  # follows from the data
            result.weights[name] = weight
        elif place not in others:
            result.weights[name] = weight
            result.fresh.append(name)
        elif of_rows and _fit(weight, others[place], of_rows[0]):
            result.weights[name] = weight.clone()
            for match in of_rows:
                _move(result.weights[name], others[place], match)
            result.matches.extend(of_rows)
        elif not of_rows and weight.shape == others[place].shape:
            result.weights[name] = others[place]
        else:
            result.misfits[name] = list(weight.shape), list(others[place].shape)
    return result


def _fit(weight: Tensor, other: Tensor, match: Match) -> bool:
    """Whether rows of the other weight fit; of columns, whether these do."""
    return weight.shape[1:] == other.shape[1:] if match.factor is None else len(weight) == len(other)


def _move(weight: Tensor, other: Tensor, match: Match) -> None:
    """Copy the rows or columns that match."""
    rows, other_rows = torch.from_numpy(match.rows), torch.from_numpy(match.other_rows)
    if match.factor is None:
        weight[rows] = other[other_rows]
    else:
        weight[:, rows] = other[:, other_rows] * torch.from_numpy(match.factor)


def _item_rows(
    weights: Mapping[str, Tensor], others: Mapping[str, Tensor], items: Ints, there: Vocabulary
) -> Iterator[Match]:
    """Weights of the towers that have a row for each item_index."""
    known = np.flatnonzero(items)
    for name, weight in weights.items():
        if not name.startswith((ITEM_TOWER, HISTORY_TOWER)) or name not in others:
            continue
        if (len(weight), len(others[name])) == (len(items), there.items + 1) and weight.dtype != torch.bool:
            yield Match("items", name, name, known, items[known], len(items) - 1 - len(known), there.items - len(known))


def _feature_rows(here: Vocabulary, there: Vocabulary) -> Iterator[Match]:
    """Codes and numbers of item features; a feature that is new has a match without rows."""
    encoders, others = here.features["items"], there.features["items"]
    start, other_start = _starts(here.item_features, "codes"), _starts(there.item_features, "codes")
    for name, (begin, size) in start.items():
        other_begin, other_size = other_start.get(name, (0, 0))
        codes = matching_codes(encoders[name], others[name])[:size] if name in other_start else np.full(size, NONE)
        kept = np.flatnonzero((codes != NONE) & (codes < other_size))
        counts = size - len(kept), other_size - len(kept)
        for weight in (f"{ITEM_TOWER}bags.weight", f"{HISTORY_TOWER}bags.weight"):
            yield Match(f"values of {name}", weight, weight, begin + kept, other_begin + codes[kept], *counts)
    start, other_start = _starts(here.item_features, "values"), _starts(there.item_features, "values")
    for name, (begin, size) in start.items():
        factor = matching_numbers(encoders[name], others[name]) if name in other_start else None
        factor = np.empty(0, dtype=np.float32) if factor is None else factor
        kept = np.arange(len(factor))
        columns = begin + kept, other_start.get(name, (0, 0))[0] + kept
        for weight in (f"{ITEM_TOWER}linear.weight", f"{HISTORY_TOWER}linear.weight"):
            yield Match(f"numbers of {name}", weight, weight, *columns, size - len(kept), 0, factor)


def _starts(item_features: Mapping[str, Array], kind: str) -> dict[str, tuple[int, int]]:
    """Where the codes or numbers of each feature begin in the tower's weight, and how many there are."""
    begin, result = 0, {}
    for name in sorted(key.rpartition(".")[0] for key in item_features if key.endswith(f".{kind}")):
        array = item_features[f"{name}.{kind}"]
        size = int(array.max(initial=0)) + 1 if kind == "codes" else array.shape[1]
        result[name] = begin, size
        begin += size
    return result


def _event_rows(here: Vocabulary, there: Vocabulary) -> Iterator[Match]:
    """Codes of event inputs, and of the objectives."""
    for number, name in enumerate(here.inputs):
        place, other_place = f"event_inputs.embeddings.{number}.weight", ""
        if name in there.inputs:
            other_place = f"event_inputs.embeddings.{there.inputs.index(name)}.weight"
        if not other_place:  # in no model before
            yield Match(f"values of {name}", place, other_place, NO_ROWS, NO_ROWS, 0, 0)
        elif name == EVENT_TYPE:
            codes, other = (
                dict(zip(v.features["event_types"], v.features["input_types"], strict=True)) for v in (here, there)
            )
            yield Match("event types", place, other_place, *_by_name(codes, other))
        elif name in here.features["events"]:
            encoder, other_encoder = here.features["events"][name], there.features["events"][name]
            matching = matching_codes(encoder, other_encoder)
            kept = np.flatnonzero(matching != NONE)
            gone = int((matching_codes(other_encoder, encoder) == NONE).sum())
            counts = len(matching) - len(kept), gone
            yield Match(f"values of {name}", place, other_place, kept, matching[kept], *counts)
        else:  # hours and the like have the same codes in all data
            rows = np.arange(SIZES[name])
            yield Match(f"values of {name}", place, other_place, rows, rows, 0, 0)
    asked, other = ({name: 1 + k for k, name in enumerate(v.features["event_types"])} for v in (here, there))
    for weight in ("objective.scale", "objective.shift"):
        yield Match("objectives", weight, weight, *_by_name(asked, other))


def _by_name(codes: Mapping[str, int], others: Mapping[str, int]) -> tuple[Ints, Ints, int, int]:
    """Codes of the same names, 0 with them, here and there; and how many names are in one alone."""
    both = [name for name in codes if name in others]
    pairs = [(0, 0), *((codes[name], others[name]) for name in both)]
    rows, other_rows = np.array(pairs, dtype=np.int64).T
    return rows, other_rows, len(codes) - len(both), len(others) - len(both)
