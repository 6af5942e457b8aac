"""Warm start: begin a training from another run's weights, on data that has changed since.

Items are matched by id, features' values and event types by name; the rest of the weights is copied as it is.
Shapes: V items, D embedding dim, E events.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from twotower.core.arrays import Ints, Mask
from twotower.core.errors import UserError
from twotower.core.event_codes import TIME
from twotower.core.files import read_json, write_json
from twotower.core.schema import FEATURES_FILE, PAD, TOWER_FILE, Prepared, read_item_features
from twotower.model.item_tower.features import FeatureItemTower
from twotower.model.item_tower.hashing import HashedEmbedding
from twotower.model.sharded_embedding import sharded_in
from twotower.model.two_tower import TwoTower
from twotower.runs import layout
from twotower.runs.build import input_sizes
from twotower.runs.checkpoint import read_checkpoint, write_checkpoint
from twotower.runs.identity import differing_settings, listed
from twotower.runs.run import Run, load_run, load_weights, run_of_bundle
from twotower.training.matched_weights import Matched, Vocabulary, matched_weights
from twotower.training.overlap import learnt_until, require_unlearnt_test
from twotower.training.processes import on_first_process

log = logging.getLogger(__name__)
EVENTS_AT_ONCE = 1 << 20  # bounds memory
NEW_ITEMS = "new_items"  # in the checkpoint beside its weights: [V + 1]


class WarmStart:
    """The weights of another run for a new model, as far as they fit; found before anything is written.

    They are kept in the run directory until it is finished: a refit, or a run that is resumed, begins from the same,
    also where models:/NAME@ALIAS has become another model since. layout.WARM_START_FILE says what was matched.
    New items begin as the mean of the known items next to them in sessions; those of a tower with features as what
    their features say.

        start = WarmStart(model, "runs/yesterday", config.model, prepared, Path("runs/today"))
        start.load(prepared.training_mask(include_validation=False))

    Args:
        model: of the new run.
        source: a run's folder, an MLflow run id, models:/NAME@ALIAS, or a bundle whose run is there: run_of_bundle.
        settings: the new configuration's group `model`.
        prepared: the new data.
        path: the new run directory.
        tracking_uri: MLflow's; None: the usual database.

    Raises:
        UserError: there is no such run, its weights do not fit, or it has learnt from what is to test it.
    """

    def __init__(
        self,
        model: TwoTower,
        source: str,
        settings: DictConfig,
        prepared: Prepared,
        path: Path,
        tracking_uri: str | None = None,
    ) -> None:
        if sharded_in(model):
            raise UserError("warm_start: the items' table is distributed over several processes; take one process")
        self._model, self._prepared, self._path = model, prepared, path
        self._file = path / layout.CHECKPOINTS_FOLDER / layout.INITIAL
        self._found: list[tuple[dict[str, Any], dict[str, Any]]] = []  # checkpoint and facts, until they are written

        def find() -> None:
            from twotower.tracking.lookup import DEFAULT_TRACKING_URI, locate  # MLflow's; a machine may lack it

            # Random draws go on as in a run that is resumed and finds its file.
            with TemporaryDirectory() as scratch, torch.random.fork_rng(devices=[]):
                folder = locate(source, tracking_uri or DEFAULT_TRACKING_URI, Path(scratch))
                run = folder if not (folder / TOWER_FILE).exists() else run_of_bundle(folder)
                if run is None:
                    raise UserError(
                        f"warm_start: {source} is a bundle, which has no weights to train, and its run is neither "
                        "beside it nor in runs/; give that run's folder, its MLflow id or models:/NAME@ALIAS"
                    )
                self._found.append(start_from(load_run(run), source, model, settings, prepared))

        if not on_first_process(self._file.exists):
            on_first_process(find)

    def load(self, mask: Mask) -> None:
        """Load the weights into the model; `mask` [E] are the events that training learns from."""
        on_first_process(self._write)
        load_weights(self._model, self._file)
        is_new = read_checkpoint(self._file)[NEW_ITEMS].numpy()
        for tower in self._model.item_towers():
            place_new_items(tower, is_new, self._prepared, mask)

    def _write(self) -> None:
        for checkpoint, facts in self._found:
            write_json(self._path / layout.WARM_START_FILE, facts)
            write_checkpoint(self._file, checkpoint)
            log.info("warm start from %s\n%s", facts["source"], describe(facts))
        self._found.clear()  # gives its memory back


def start_from(
    old: Run, source: str, model: TwoTower, settings: DictConfig, prepared: Prepared
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the checkpoint that a training begins from, and the facts of layout.WARM_START_FILE."""
    until = learnt_until(old)
    require_unlearnt_test(source, until, prepared.manifest)
    items = old_items(old, prepared)
    matched = weights_from(old, items, model, settings, prepared)
    before = old.path / layout.WARM_START_FILE
    began = {"source": source, "data_fingerprint": old.data["fingerprint"], "learnt_until": until}
    chain = read_json(before, "a run directory") if before.exists() else None
    state = {f"model.{name}": weight for name, weight in matched.weights.items()}
    checkpoint = {"state_dict": state, NEW_ITEMS: torch.from_numpy(items == PAD)}
    return checkpoint, {**began, **facts_of(matched), "before": chain}


def old_items(old: Run, prepared: Prepared) -> Ints:
    """Return [V + 1] the item_index of the run `old` for each item_index of the data, PAD where it has none."""
    from twotower.evaluation.reindex import item_ids, model_index  # pyarrow, which a machine that only trains may lack

    items = model_index(item_ids(old.path), item_ids(prepared.path))
    if not items.any():
        raise UserError(f"warm_start: {prepared.path} and {old.path} have no item in common; are the ids of one kind?")
    return items.astype(np.int64)


def weights_from(old: Run, items: Ints, model: TwoTower, settings: DictConfig, prepared: Prepared) -> Matched:
    """Return weights for `model`, with those of the run `old` where they fit; `items` is of old_items."""
    if any(isinstance(module, HashedEmbedding) for module in model.modules()):
        raise UserError(
            "warm_start: with model.item_tower.hash_buckets the table's rows follow from item numbers, which other data"
            " changes; take hash_buckets=null, or train from the start"
        )
    if bool(settings.normalize) != bool(old.config.model.normalize):
        raise UserError(f"warm_start: {old.path} has model.normalize={old.config.model.normalize}; take the same here")
    here = _vocabulary(prepared.path, settings, prepared.manifest)
    there = _vocabulary(old.path, old.config.model, old.data)
    matched = matched_weights(model.state_dict(), old.model.state_dict(), items, here, there)
    if matched.misfits:
        raise UserError(_misfit(matched, settings, old))
    return matched


@torch.no_grad()
def place_new_items(tower: nn.Module, is_new: Mask, prepared: Prepared, mask: Mask) -> None:
    """Set the vectors of new items to the mean of the known items before and after them in sessions.

    Those that no known item is next to keep what they begin with, and a tower with features begins with these alone.

    Args:
        tower: of items.
        is_new: [V + 1].
        prepared: the data.
        mask: [E] events that count.
    """
    table = getattr(getattr(tower, "embedding", None), "weight", None)
    if table is None or len(table) != len(is_new):
        return
    if isinstance(tower, FeatureItemTower):
        table[torch.from_numpy(is_new)] = 0
        return
    total, count = torch.zeros_like(table), torch.zeros(len(table))
    follows = np.ones(len(prepared.item_index), dtype=bool)  # the event before, in the same session
    follows[np.asarray(prepared.offsets[:-1])[np.diff(prepared.offsets) > 0]] = False
    follows[1:] &= mask[1:] & mask[:-1]
    for start in range(1, len(follows), EVENTS_AT_ONCE):
        place = start + np.flatnonzero(follows[start : start + EVENTS_AT_ONCE])
        pair = [torch.from_numpy(np.asarray(prepared.item_index[at]).astype(np.int64)) for at in (place - 1, place)]
        for one, other in (pair, pair[::-1]):
            counted = torch.from_numpy(is_new[one] & ~is_new[other])
            total.index_add_(0, one[counted], table[other[counted]])
            count.index_add_(0, one[counted], torch.ones(int(counted.sum())))
    table[count > 0] = total[count > 0] / count[count > 0, None]


def facts_of(matched: Matched) -> dict[str, Any]:
    """What was matched, for people and files: {"tables": {what: {"kept", "new", "gone"}}, "fresh weights": names}."""
    tables = {match.what: match for match in matched.matches}.values()
    counts = {match.what: {"kept": len(match.rows), "new": match.new, "gone": match.gone} for match in tables}
    return {"tables": counts, "fresh weights": matched.fresh}


def describe(facts: Mapping[str, Any]) -> str:
    """The matches of a warm start, a line each."""
    lines = [
        f"  {what}: {n['kept']:,} kept, {n['new']:,} new, {n['gone']:,} gone" for what, n in facts["tables"].items()
    ]
    if fresh := facts["fresh weights"]:
        lines.append(f"  weights that begin anew: {listed(fresh)}")
    return "\n".join(lines)


def _vocabulary(path: Path, settings: DictConfig, manifest: Mapping[str, Any]) -> Vocabulary:
    inputs = [name for name in input_sizes(settings, manifest) if name != TIME]
    features = read_json(path / FEATURES_FILE, "a run or a prepared directory")
    return Vocabulary(int(manifest["num_items"]), features, inputs, read_item_features(path))


def _misfit(matched: Matched, settings: DictConfig, old: Run) -> str:
    """What does not fit, and which settings differ."""
    name, (here, there) = next(iter(matched.misfits.items()))
    began, asked = (
        OmegaConf.create({"run_dir": "", "model": OmegaConf.to_container(each, resolve=True)})
        for each in (old.config.model, settings)
    )
    told = listed(differing_settings(OmegaConf.to_yaml(began), asked)) or "none differs"
    return (
        f"warm_start: {name} has the shape {here} here and {there} in {old.path}; take that run's model settings "
        f"({told}), or train from the start"
    )
