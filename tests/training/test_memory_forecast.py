"""The forecast of memory, worked out by hand; what it is of a small module; and what is refused."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from twotower.core.errors import UserError
from twotower.data.loader import training_loader
from twotower.model.losses.gbce import gbce
from twotower.model.losses.scalable import scalable_cross_entropy
from twotower.model.losses.softmax import softmax
from twotower.model.memory_costs import memory_cost, peak_logits
from twotower.model.negatives import MixtureNegatives
from twotower.model.optimizers.adamw import lazy_adamw
from twotower.model.scoring import Scores, logits
from twotower.training import memory_forecast as preflight
from twotower.training.memory_forecast import (
    Forecast,
    Size,
    activations,
    describe,
    forecast,
    free_memory,
    require_room,
    size_of,
)

CONF = Path(__file__).parents[2] / "conf"
MB = 1_000_000
DENSE = Size(
    items=1000, dim=10, parameters=12_000, sparse=0, sparse_state=0, positions=50, negatives=200,
    logits=50 * 200, activations=3500, evaluated=100, averaged=False,
)  # fmt: skip


def test_dense_training_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """12,000 weights of 4 bytes; a step uses 300 items, all distinct, each three times 10 numbers and as many again."""
    monkeypatch.setattr(preflight, "TILE", 10_000)
    needs = forecast(DENSE)
    assert needs.weights == 48_000
    assert needs.gradients == 48_000
    assert needs.state == 96_000
    assert needs.step == 72_000 + 40_000 + 7000
    assert needs.evaluation == 120_000 + 64_000 + 80_000
    assert needs.bundle == 40_000
    assert needs.peak() == 192_000 + 264_000


def test_lazy_training_by_hand() -> None:
    """10,000 of 12,000 weights lie in the table; row-wise there is one second moment for each of 1,001 rows."""
    needs = forecast(DENSE._replace(sparse=10_000, sparse_state=10_000 + 1001))
    assert needs.gradients == 8000 + 12_000
    assert needs.state == 16_000 + 44_004
    averaged = forecast(DENSE._replace(averaged=True))
    assert averaged.state - forecast(DENSE).state == 48_000
    small = forecast(DENSE._replace(items=99, sparse=10_000))
    assert small.gradients == 8000 + 4000  # no more distinct items than there are, PAD with them


def test_what_is_measured_of_a_module(make_prepared, make_module) -> None:
    prepared = make_prepared([[1, 2, 3, 4]] * 5, num_items=30)
    loader = training_loader(prepared, 8, 100, seed=0)
    module = make_module(loader, "gru", 1, dim=4)
    size = size_of(module, 4, 12, 3, 64, False)
    dropping = make_module(loader, "transformer", 1, dim=4, dropout=0.5)
    state = torch.random.get_rng_state()
    assert size_of(dropping, 4, 12, 3, 64, False).activations > size.activations
    assert torch.equal(torch.random.get_rng_state(), state), "the same seed trains the same model"
    gru = 2 * (3 * 4 * 4 + 3 * 4)
    assert (size.items, size.dim) == (30, 4)
    assert size.parameters == sum(p.numel() for p in module.parameters()) >= 31 * 4 + gru
    assert (size.sparse, size.sparse_state, size.evaluated) == (0, 0, 64)
    assert (size.negatives, size.logits) == (30, 12 * 30)
    for row_wise, moments in ((False, 2 * 31 * 4), (True, 31 * 4 + 31)):
        module.optimizer = partial(lazy_adamw, learning_rate=1, weight_decay=0, warmup_fraction=1, row_wise=row_wise)
        size = size_of(module, 4, 12, 3, 64, True)
        assert (size.sparse, size.sparse_state, size.averaged) == (31 * 4, moments, True)
    assert not hasattr(module, "optimization") and not module.model.item_tower.embedding.sparse, "nothing is built"


def outside_loss(scores: Scores, strength: float) -> torch.Tensor:
    return strength * logits(scores).negative.logsumexp(1)


@pytest.mark.parametrize(
    ("loss", "numbers"),
    [
        (softmax, 12 * 30),
        (partial(softmax, chunk_items=None), 12 * 30),
        (partial(softmax, chunk_items=7), 12 * 7),
        (partial(softmax, chunk_items=99), 12 * 30),
        (partial(gbce, t=0.75), 4 * 12 * 30),
        (partial(scalable_cross_entropy, buckets=2, bucket_positions=3, bucket_items=5), 4 * 2 * 3 * 5),
        (partial(outside_loss, strength=2.0), 4 * 12 * 30),
        (torch.nn.Identity(), 4 * 12 * 30),
    ],
)
def test_losses_declare_their_logits_and_others_are_taken_for_dense_ones(loss: Callable, numbers: int) -> None:
    assert peak_logits(loss, 12, 30) == numbers


def test_a_loss_from_outside_may_declare_its_own() -> None:
    declared = memory_cost(lambda positions, negatives, strength: int(positions * strength))(outside_loss)
    assert declared is outside_loss, "so that _target_ still finds it"
    try:
        assert peak_logits(partial(outside_loss, strength=3), 12, 30) == 36
    finally:
        del outside_loss.memory_cost


@pytest.mark.parametrize(
    ("positions", "sources", "expected"),
    [(12, {"uniform": 6}, 18), (500, {"uniform": 6}, 30), (12, {"uniform": 30}, 30)],
)
def test_negatives_of_a_step_are_counted(positions: int, sources: dict[str, int], expected: int) -> None:
    sampler = MixtureNegatives(torch.ones(31), in_batch=True, **sources)
    assert sampler.max_negatives(positions) == expected
    assert len(sampler(torch.arange(positions) % 30 + 1).ids) <= expected
    alone = MixtureNegatives(torch.ones(31), 6, in_batch=False, popularity=3, queue=5)
    assert alone.max_negatives(12) == 14


def test_activations_are_counted_without_the_weights() -> None:
    """Of x -> (x W) ** 2 a position keeps x, for the gradient of W, and x W: 2 * 4 numbers."""

    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4, bias=False)
            self.event_inputs = torch.nn.Module()
            self.event_inputs.names = []
            self.query_time = False

        def encode_positions(
            self, vectors: torch.Tensor, *others: torch.Tensor, now: None
        ) -> tuple[torch.Tensor, None]:
            return self.linear(vectors) ** 2, None

    module = torch.nn.Module()
    module.model = Inner()
    assert activations(module, 5, 4) == 2 * 4 * 4


def test_a_pointer_s_scores_of_the_history_are_counted(make_prepared, make_module) -> None:
    """At least [L] float32 numbers a position three times: similarities, logits, and what losses make of them."""
    loader = training_loader(make_prepared([[1, 2, 3]] * 4), 200, 64, seed=0)
    plain, pointing = (activations(make_module(loader, "mean_pool", 1, asks=asks), 200, 16) for asks in (False, True))
    assert 3 * 4 * 200 < pointing - plain < 30 * 4 * 200


ROOM = Forecast(weights=10 * MB, gradients=20 * MB, state=30 * MB, step=5 * MB, evaluation=7 * MB, bundle=9 * MB)


@pytest.mark.parametrize(("there", "needed"), [(False, 67), (True, 57)])
def test_what_just_fits_trains_and_what_does_not_is_refused(there: bool, needed: int) -> None:
    require_room(ROOM, needed * MB, there)
    require_room(ROOM, None, there)
    with pytest.raises(UserError):
        require_room(ROOM, needed * MB - 1, there)


@pytest.mark.parametrize(
    ("largest", "knob"),
    [
        ("weights", "hash_buckets"),
        ("gradients", "optimizer=lazy_adamw"),
        ("state", "optimizer=lazy_adamw"),
        ("step", "positions_per_batch"),
        ("step", "model/loss=chunked_softmax"),
        ("evaluation", "model.dim"),
    ],
)
def test_the_refusal_names_the_figures_and_what_helps(largest: str, knob: str) -> None:
    with pytest.raises(UserError) as error:
        require_room(ROOM._replace(**{largest: 5 << 30}), 1 << 30, False)
    assert knob in str(error.value)
    assert f"{largest} 5.00 GiB" in str(error.value)
    assert "1.00 GiB are free" in str(error.value)


def test_the_knobs_that_are_named_exist() -> None:
    named = ["optimizer=lazy_adamw", "optimizer.row_wise=true", "model/loss=chunked_softmax", "model/negatives=mixture"]
    named += [f"{key}=9" for key in ("positions_per_batch", "evaluation.positions_per_batch", "model.dim")]
    named += ["model.item_tower.hash_buckets=9"]
    text = " ".join(preflight.ADVICE.values())
    assert all(knob.removesuffix("=9") in text for knob in named)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose("train", named)


def test_there_is_some_memory_here_and_less_than_a_machine_has() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or MB < free < 1 << 46


def test_the_table_says_it_all() -> None:
    text = describe(DENSE, ROOM, batches=12, epochs=10, free=None)
    for part in ("12,000", "1,000 items", "10 dimensions", "12 an epoch, 120 in 10 epochs", "unknown", "64 MiB"):
        assert part in text, part
