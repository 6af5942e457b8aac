"""TwoTowerModule: towers, negatives, loss and metrics in Lightning's training and evaluation steps."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.core.batch import SessionBatch
from twotower.metrics.candidates import Candidates
from twotower.metrics.queries import Queries, histories_of, queries_of
from twotower.metrics.ranking_metrics import RankingMetrics
from twotower.metrics.ranking_results import LIST_LENGTH, RankingResults, concatenate_results
from twotower.metrics.ranks import Ranks, rank_and_list
from twotower.metrics.score_changes import ScoreChanges, history_changes
from twotower.model.distributed import gather_rows, sum_over_processes, world_size
from twotower.model.history_scores import require_pointer_in
from twotower.model.objective import code_of
from twotower.model.pointer import history_scores, item_bonuses
from twotower.model.query_time import draw_now
from twotower.model.scoring import Scores, accidental_hits, first_dimensions, truncate
from twotower.model.two_tower import TwoTower
from twotower.training.optimized_module import OptimizedModule


class TwoTowerModule(OptimizedModule):
    """Trains and evaluates a TwoTower.

    Shapes: B sessions, L history length, P target positions of a step, N negatives, Q queries, V items, D dim.

    >>> from twotower.model.event_inputs import EventInputs
    >>> from twotower.model.item_tower.id import IdItemTower
    >>> from twotower.model.losses.softmax import softmax
    >>> from twotower.model.negatives import CatalogueNegatives
    >>> from twotower.model.optimizers.adamw import adamw
    >>> from twotower.model.user_tower.mean_pool import MeanPoolTower
    >>> towers = TwoTower(IdItemTower(9, 4, True), EventInputs({}, 4), MeanPoolTower(4, 0.0), None, normalize=True)
    >>> catalogue = CatalogueNegatives(torch.ones(10))
    >>> module = TwoTowerModule(towers, catalogue, softmax, 0.1, adamw, 100, ks=[20], event_types=["view"])

    Args:
        model: the towers.
        negatives: [P] targets -> Negatives.
        loss: Scores -> [P].
        temperature: divides similarities.
        optimizer: (model, total_steps) -> (optimizer, scheduler).
        total_steps: length of the schedule; training may end earlier.
        ks: cut-offs of the metrics.
        event_types: names by code.
        phase: prefix of the logged training metrics: `train/loss`.
        matryoshka: sizes d whose first d dimensions can serve alone. The loss is the mean over these and the whole
            vectors (Kusupati et al. 2022, arXiv:2205.13147), and evaluation ranks by each.
        ranked: the items that evaluation ranks; None: all, and repeated targets are not told from new ones.
        popularity_shift: [V + 1] by item_index, taken from logits in training; None: 0.
    """

    def __init__(
        self,
        model: TwoTower,
        negatives: nn.Module,
        loss: Callable[[Scores], Tensor],
        temperature: float,
        optimizer: Callable[..., tuple[Any, Any]],
        total_steps: int,
        ks: Sequence[int],
        event_types: Sequence[str],
        phase: str = "train",
        matryoshka: Sequence[int] = (),
        ranked: Candidates | None = None,
        popularity_shift: Tensor | None = None,
    ) -> None:
        super().__init__(model, optimizer, total_steps)
        if model.pointer is not None:
            require_pointer_in(loss)
        self.negatives = negatives
        self.loss = loss
        self.temperature = temperature
        self.phase = phase
        self.matryoshka = list(matryoshka)
        self.ranked = ranked
        none = torch.zeros(int(model.item_tower.num_items) + 1)  # type: ignore[arg-type] # torch has no type for it
        shift = none if popularity_shift is None else popularity_shift
        self.popularity_shift: Tensor
        self.register_buffer("popularity_shift", shift, persistent=False)
        self.metrics = RankingMetrics(ks, event_types)
        self.metrics_by_size: Any = nn.ModuleDict({str(d): RankingMetrics(ks, event_types) for d in self.matryoshka})
        # Of lists that were told something of the target: its type as the objective; its time.
        told = {"asked": model.objective is not None, "at_time": model.query_time}
        self.metrics_told: Any = nn.ModuleDict({name: RankingMetrics(ks, event_types) for name in told if told[name]})
        # During an evaluation: candidates [V, d] of each size d, all D dimensions first, and the items' vectors in
        # histories [V + 1, D], by item_index.
        self.candidates: list[Tensor] = []
        self.history_item_vectors = torch.empty(0)
        self.keeps_results = False  # in validation, too
        self._results: list[RankingResults] = []  # of each batch of the newest test

    def training_step(self, batch: SessionBatch, batch_index: int) -> Tensor:
        """Weighted mean loss over all targets of the batch on all processes."""
        is_target = batch.target_weight != 0
        target, weight = batch.target[is_target], batch.target_weight[is_target]
        negatives = self.negatives(target)
        history, target_vector, negative_vector = self._vectors(batch.item_index, target, negatives.ids)
        asked = None if self.model.objective is None else self.model.objective.draw(batch.target_type)
        now = draw_now(batch.target_time) if self.model.query_time else None
        users, pointer = self.model.encode_positions(history, batch.inputs, batch.item_index, asked, now)
        shift = self.popularity_shift
        scores = Scores(
            users[is_target], target_vector, negative_vector, negatives.log_q, accidental_hits(target, negatives.ids),
            weight.sign(), self.temperature, target_shift=shift[target], negative_shift=shift[negatives.ids],
        )  # fmt: skip
        sizes = [scores, *(first_dimensions(scores, dim, self.model.normalize) for dim in self.matryoshka)]
        if pointer is not None:
            if self.model.history_tower is not None:
                history = self.model.item_tower(batch.item_index)
            cut = [[truncate(x, dim, self.model.normalize) for x in (users, history)] for dim in self.matryoshka]
            columns = batch.item_index, batch.target, is_target
            seen = pointer, *columns, self.temperature, negatives.ids, shift[batch.item_index][:, None]
            of_size = [history_scores(user, item, *seen) for user, item in ([users, history], *cut)]
            sizes = [s._replace(history=history) for s, history in zip(sizes, of_size, strict=True)]
        cost = (weight.abs() * torch.stack([self.loss(s) for s in sizes]).mean(0)).sum()
        total_cost, total_weight = sum_over_processes(torch.stack([cost, weight.abs().sum()])).unbind()
        total_weight = total_weight.clamp(min=torch.finfo(total_weight.dtype).tiny)
        self.log(f"{self.phase}/loss", total_cost / total_weight, prog_bar=True, batch_size=len(target))
        return torch.mul(cost / total_weight, world_size())  # gradients are averaged over the processes

    def _vectors(self, history: Tensor, target: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Item vectors of histories [B, L], targets [P] and negatives [N]; each distinct item is encoded once."""
        tied = self.model.history_tower is None
        row = torch.cat([history.flatten(), target]) if tied else target
        if len(negative) == self.model.item_tower.num_items:  # the catalogue: no look-up, no copy
            table = self.model.item_tower(torch.arange(len(negative) + 1, device=negative.device))
            negative_vector = table[1:]
        else:
            distinct, rows = torch.unique(torch.cat([row, negative]), return_inverse=True)
            table = self.model.item_tower(distinct)
            row, negative_row = torch.split(rows, [len(row), len(negative)])
            negative_vector = F.embedding(negative_row, table)
        vectors = F.embedding(row, table)
        if self.model.history_tower is not None:
            return self.model.history_tower(history), vectors, negative_vector
        history_vector, target_vector = torch.split(vectors, [history.numel(), len(target)])
        return history_vector.view(*history.shape, -1), target_vector, negative_vector

    def on_validation_epoch_start(self) -> None:
        """Encode the catalogue once for all batches."""
        self._results = []
        items = self.model.encode_items()
        in_history = items if self.model.history_tower is None else self.model.encode_history_items()
        self.history_item_vectors = F.pad(in_history, (0, 0, 1, 0))  # PAD is the zero vector
        self.candidates = [items, *(truncate(items, dim, self.model.normalize) for dim in self.matryoshka)]

    def validation_step(self, batch: SessionBatch, batch_index: int) -> None:
        """Rank every query's target among the whole catalogue, or what of it is ranked."""
        if self.keeps_results:
            self.test_step(batch, batch_index)
        else:
            self._rank(batch)

    def encode_queries(
        self, batch: SessionBatch, asked: Tensor | None = None, now: Tensor | None = None
    ) -> tuple[Queries, Tensor, list[ScoreChanges]]:
        """Return a batch's queries, their user vectors [Q, D], and what the pointer adds; during an evaluation."""
        queries = queries_of(batch)
        history = F.embedding(batch.item_index, self.history_item_vectors)
        users, pointer = self.model.encode_positions(history, batch.inputs, batch.item_index, asked, now)
        users = users[queries.row, queries.position]
        if pointer is None:
            return queries, users, []
        seen = histories_of(batch, queries)
        bonus = self.temperature * item_bonuses(pointer[queries.row, queries.position], seen)
        return queries, users, [history_changes(seen, bonus)]

    def _rank(self, batch: SessionBatch, list_length: int = 0) -> tuple[Tensor, Ranks, Tensor]:
        """Update the metrics with a batch; returns the queries' events [Q], ranks and lists [Q, list_length]."""
        queries, user, changes = self.encode_queries(batch)
        is_repeat, restrict = self.ranked.of(queries.event) if self.ranked else (None, [])
        changes += restrict
        ranks, top = rank_and_list(user, self.candidates[0], queries.target, list_length, changes)
        self.metrics.update(ranks, queries.target_type, is_repeat)
        for metrics, items in zip(self.metrics_by_size.values(), self.candidates[1:], strict=True):
            cut = truncate(user, items.shape[1], self.model.normalize)
            metrics.update(rank_and_list(cut, items, queries.target, 0, changes)[0], queries.target_type, is_repeat)
        told = {"asked": {"asked": code_of(batch.target_type)}, "at_time": {"now": batch.target_time}}
        for name, metrics in self.metrics_told.items():
            _, user, changes = self.encode_queries(batch, **told[name])
            with_it, _ = rank_and_list(user, self.candidates[0], queries.target, 0, [*changes, *restrict])
            metrics.update(with_it, queries.target_type)
        return queries.event, ranks, top

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all ranks."""
        self._log_metrics("val")

    on_test_epoch_start = on_validation_epoch_start

    def test_step(self, batch: SessionBatch, batch_index: int) -> None:
        """Rank as in validation, and keep the results with lists of LIST_LENGTH items."""
        self._results.append(RankingResults.of(*self._rank(batch, LIST_LENGTH)))

    def on_test_epoch_end(self) -> None:
        """Log the metrics over all ranks."""
        self._log_metrics("test")

    def results(self) -> RankingResults:
        """Return the results of the newest test or, where they are kept, validation, of all processes."""
        local = concatenate_results(self._results)
        gathered = (gather_rows(torch.from_numpy(column).to(self.device)).cpu().numpy() for column in local)
        return concatenate_results([RankingResults(*gathered)])

    def _log_metrics(self, part: str) -> None:
        """Log and reset the metrics of "val" or "test", and free the catalogue's vectors."""
        sizes = {"": self.metrics} | {f"_dim_{dim}": metrics for dim, metrics in self.metrics_by_size.items()}
        for size, metrics in sizes.items():
            self.log_dict({f"{part}/{name}{size}": value for name, value in metrics.compute().items()})
            metrics.reset()
        for told, metrics in self.metrics_told.items():
            values = metrics.compute().items()  # a type that is asked for has metrics of its own
            self.log_dict({f"{part}/{n}_{told}": value for n, value in values if ("/" in n) == (told == "asked")})
            metrics.reset()
        self.candidates, self.history_item_vectors = [], torch.empty(0)
