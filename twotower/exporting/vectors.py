"""Vectors of a trained model: of its items, and of users after histories.

Shapes: B histories, V items, K event inputs, E events, D embedding dim, H that of items in histories.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import nn
from tqdm import tqdm

from twotower.core.arrays import Floats, Ints
from twotower.core.batch import gather, history_positions
from twotower.core.event_codes import ANY_TYPE
from twotower.model.pointer import item_bonuses
from twotower.model.two_tower import TwoTower
from twotower.runs.histories import History
from twotower.serving.bundle_format import EMBEDDINGS_FILE, HISTORY_FILE
from twotower.serving.histories import KnownEvents
from twotower.serving.users import NONE, Users, first_of_each

ITEMS, HISTORIES = 2**16, 256  # encoded at once; bounds the memory of large catalogues and samples


def write_item_vectors(model: TwoTower, directory: Path) -> tuple[Floats, Floats]:
    """Encode the catalogue into EMBEDDINGS_FILE and, where histories have other item vectors, HISTORY_FILE.

    In parts, with dropout off, on the CPU: the work is looking up tables, and moving them to a GPU takes longer
    (experiments/benchmarks/item_vectors.py).

    Returns:
        [V, D] and [V, H], memory-mapped.
    """
    candidates, histories = model.item_towers()[0], model.item_towers()[-1]
    towers = {EMBEDDINGS_FILE: (candidates, model.served)}
    if histories is not candidates or model.served_dim is not None:
        towers[HISTORY_FILE] = (histories, nn.Identity())
    num_items = int(candidates.num_items)  # type: ignore[arg-type]
    tables: dict[str, Floats] = {}
    with (
        evaluating(model),
        tqdm(total=num_items * len(towers), desc="item vectors", unit=" items", disable=None) as bar,
    ):
        for name, (tower, served) in towers.items():
            for start in range(0, num_items, ITEMS):
                index = torch.arange(start + 1, min(start + ITEMS, num_items) + 1)
                vectors = served(tower(index)).numpy()
                if start == 0:
                    tables[name] = open_memmap(directory / name, "w+", np.float32, (num_items, vectors.shape[1]))
                tables[name][start : start + ITEMS] = vectors
                bar.update(len(vectors))
    for table in tables.values():
        table.flush()  # type: ignore[attr-defined]
    return tables[EMBEDDINGS_FILE], tables.get(HISTORY_FILE, tables[EMBEDDINGS_FILE])


def encode_users(model: TwoTower, histories: Sequence[History], max_length: int, objective: int = ANY_TYPE) -> Users:
    """Encode histories, none of them empty, by the torch model, for the objective of a code, at each history's time."""
    parts, rows_and_bonuses = [], []
    for start in range(0, len(histories), HISTORIES):
        events = join_histories(histories[start : start + HISTORIES])
        position, valid = history_positions(events.end, events.length, max_length)
        index = torch.from_numpy(gather(events.item_index, position, valid))
        rows = [torch.from_numpy(gather(column, position, valid)) for column in events.codes.T]
        codes = torch.stack(rows, dim=-1) if rows else index.new_zeros((*index.shape, 0))
        with evaluating(model):
            asked = torch.full((len(index),), objective)
            vectors, pointer = model.with_pointer(index, codes, asked, torch.from_numpy(events.now))
            parts.append(vectors.numpy())
            if model.pointer is not None and pointer is not None:
                bonus = model.pointer.temperature * item_bonuses(pointer, index)
                history, is_first = index.numpy(), first_of_each(index.numpy())
                firsts = np.where(is_first, history - 1, NONE), np.where(is_first, bonus.float().numpy(), np.float32(0))
                rows_and_bonuses.append(_padded(*firsts, max_length))
    return Users(np.concatenate(parts), *map(np.concatenate, zip(*rows_and_bonuses, strict=True)))


def _padded(rows: Ints, bonus: Floats, length: int) -> tuple[Ints, Floats]:
    more = ((0, 0), (0, length - rows.shape[1]))
    return np.pad(rows, more, constant_values=NONE), np.pad(bonus, more)


def join_histories(histories: Sequence[History]) -> KnownEvents:
    """Return all histories in one table of events, one after the other."""
    length = np.array([len(history.item_index) for history in histories])
    items, codes, now = zip(*histories, strict=True)
    return KnownEvents(np.concatenate(items), np.concatenate(codes), length, np.array(now))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Turn gradients and dropout off, and restore the model's mode at the end."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
