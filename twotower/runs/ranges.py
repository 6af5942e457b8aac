"""Ranges of the settings that are numbers, checked before anything is read or built."""

import math
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from twotower.core.errors import UserError


class Range(NamedTuple):
    """Which numbers a setting may be.

    >>> Range(1).refuses(0), Range(1).refuses(2.5), Range(0, whole=False, above=True).refuses(0.1)
    (True, True, False)
    """

    least: float
    whole: bool = True
    above: bool = False  # whether the number must be more than `least`
    below: float | None = None  # must be less
    most: float | None = None  # must not be more
    null: bool = False  # whether null is a choice

    def refuses(self, value: object) -> bool:
        """Return whether the setting can't be this value."""
        if value is None:
            return not self.null
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return True
        enough = value > self.least if self.above else value >= self.least  # NaN never is
        below, most = (math.inf if bound is None else bound for bound in (self.below, self.most))
        return not (enough and value < below and value <= most)

    def __str__(self) -> str:
        """Return what is expected."""
        kind, bound = "a whole number" if self.whole else "a number", "above" if self.above else "from"
        upper = "" if self.above else " on"
        if self.below is not None or self.most is not None:
            upper = f" to {self.most:g}" if self.below is None else f" to less than {self.below:g}"
        return f"{kind} {bound} {self.least:g}{upper}{', or null' if self.null else ''}"


POSITIVE, SHARE = Range(0, whole=False, above=True), Range(0, whole=False, below=1)
PART = Range(0, whole=False, most=1)
RANGES = {
    "positions_per_batch": Range(1, null=True),
    **dict.fromkeys(("trainer.max_epochs", "trainer.log_every_n_steps"), Range(1)),
    **dict.fromkeys(("model.dim", "model.max_length", "model.user_tower.layers", "model.user_tower.heads"), Range(1)),
    **dict.fromkeys((f"model.loss.{name}" for name in ("k", "buckets", "bucket_items", "bucket_positions")), Range(1)),
    **dict.fromkeys((f"model.negatives.{name}" for name in ("uniform", "popularity", "queue")), Range(0)),
    **dict.fromkeys(("model.loss.chunk_items", "model.item_tower.hash_buckets", "sweep.trials"), Range(1, null=True)),
    **dict.fromkeys(("evaluation.min_history", "evaluation.positions_per_batch"), Range(1)),
    **dict.fromkeys(("preparation.min_users_per_item", "callbacks.early_stopping.patience"), Range(1)),
    **dict.fromkeys(("evaluation.replicates", "seed", "trainer.num_sanity_val_steps"), Range(0)),
    **dict.fromkeys(("optimizer.learning_rate", "checkpoint_minutes"), POSITIVE),
    **dict.fromkeys(("model.popularity_shift", "replay"), PART),
    "newest_days": Range(0, whole=False, above=True, null=True),
    **dict.fromkeys(
        (
            "model.user_tower.dropout",
            "model.item_tower.id_dropout",
            "model.objective.any_share",
            "optimizer.warmup_fraction",
        ),
        SHARE,
    ),
    **dict.fromkeys(("optimizer.weight_decay", "model.loss.regularization"), Range(0, whole=False)),
    **dict.fromkeys(("audience.k", "audience.min_size", "segments.min_size"), Range(1)),
    "model.loss.t": Range(0, whole=False),
    "model.negatives.popularity_power": Range(0, whole=False),
    **dict.fromkeys(("model.temperature", "trainer.gradient_clip_val"), POSITIVE._replace(null=True)),
    "preparation.session_gap_minutes": POSITIVE._replace(null=True),
    "warm_epochs": Range(1),
    **dict.fromkeys(("gate.margin", "gate.slice_margin"), SHARE),
    "gate.max_growth": POSITIVE,
    "gate.max_p99_ms": POSITIVE._replace(null=True),
    "index.exact_below": Range(0),
    "index.target_recall": POSITIVE,
    "segments.seed": Range(0),
}


def check_ranges(config: DictConfig) -> None:
    """Raise UserError where a setting of a resolved configuration is outside its range; another package's are its own.

    >>> check_ranges(OmegaConf.create({"model": {"dim": 0}}))
    Traceback (most recent call last):
    twotower.core.errors.UserError: model.dim=0; expected a whole number from 1 on
    """
    for key, expected in RANGES.items():
        parent, _, name = key.rpartition(".")
        group = OmegaConf.select(config, parent) if parent else config
        if not isinstance(group, DictConfig) or name not in group or OmegaConf.is_missing(group, name):
            continue
        own = str(group.get("_target_", "twotower")).startswith(("twotower", "pytorch_lightning"))
        if own and expected.refuses(group[name]):
            value = "null" if group[name] is None else group[name]
            raise UserError(f"{key}={value}; expected {expected}")
