"""Softmax cross-entropy, full or sampled, with all logits at once or in chunks.

Shapes: P target positions, N negatives, D dim, C negatives of a chunk.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from twotower.model.history_scores import knows_pointer, taken_out, with_history
from twotower.model.losses.cross_entropy import cross_entropy
from twotower.model.memory_costs import memory_cost
from twotower.model.scoring import Scores, take_out, target_logit


def _chunk_logits(positions: int, negatives: int, chunk_items: int | None = None) -> int:
    return positions * min(negatives, chunk_items or negatives)  # updated in place


@knows_pointer
@memory_cost(_chunk_logits)
def softmax(scores: Scores, chunk_items: int | None = None) -> Tensor:
    """Cross-entropy [P] of the target among itself and the negatives.

    With every item as a negative this is the full softmax; with sampled ones and logQ, its estimate.

    Fused: it equals the plain form, `cross_entropy(target, torch.logsumexp(negative, dim=1), sign)` of the dense
    logits `target, negative, sign = logits(scores)`, in values and gradients, for any chunk
    (tests/model/losses/test_fused_softmax.py: test_equals_the_plain_form).

    >>> one = torch.ones(1, 1)
    >>> softmax(Scores(one, one, -one, torch.zeros(1), torch.tensor([-1]), torch.ones(1), temperature=1.0))
    tensor([0.1269])

    Args:
        chunk_items: C, number of negatives whose logits are held at one time: memory, beside the gradients, is that of
            [P, C] numbers for any N. The backward pass computes them again, a fourth matrix product beside three
            (Cut Cross-Entropy, Wijmans et al. 2024, arXiv:2411.09009). None: all at once, kept for the backward pass.
    """
    others = _LogSumExp.apply(  # type: ignore[no-untyped-call] # torch has no type for it
        scores.user, scores.negative_vector, scores.log_q + scores.negative_shift,
        taken_out(scores.hit, scores.history), scores.temperature, chunk_items or max(1, len(scores.log_q)),
    )  # fmt: skip
    return cross_entropy(*with_history(scores.history, target_logit(scores), others), scores.sign)


class _LogSumExp(torch.autograd.Function):
    """[P] logsumexp of each position's corrected logits, without the columns [P, K] that are taken out.

    Under autocast matrix products have its dtype; sums and exponentials are float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        user: Tensor,
        negative_vector: Tensor,
        log_q: Tensor,
        column: Tensor,
        temperature: float,
        chunk_items: int,
    ) -> Tensor:
        kind = user.device.type
        ctx.product_dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else user.dtype
        ctx.temperature, ctx.chunk_items = temperature, chunk_items
        total = torch.zeros(len(user), dtype=log_q.dtype, device=user.device)
        largest = torch.full_like(total, torch.finfo(total.dtype).min)  # finite: a chunk may have nothing but -inf
        scaled = (user / temperature).to(ctx.product_dtype)
        for _, _, logit in _chunks(scaled, negative_vector, log_q, column, chunk_items):
            new = torch.maximum(largest, logit.amax(1))
            total.mul_((largest - new).exp_()).add_(logit.sub_(new[:, None]).exp_().sum(1))
            largest = new
        result = largest + total.log()
        if chunk_items >= len(negative_vector):  # one chunk, whose softmax is `logit` / `total`
            ctx.save_for_backward(user, negative_vector, log_q, column, result, logit, total)
        else:
            ctx.save_for_backward(user, negative_vector, log_q, column, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        user, negative_vector, log_q, column, result, *kept = ctx.saved_tensors
        slope = grad / ctx.temperature
        if kept:
            slope = slope / kept[1].clamp(min=torch.finfo(slope.dtype).tiny)
            parts = iter([(slice(None), negative_vector.to(ctx.product_dtype), kept[0])])
        else:
            scaled = (user / ctx.temperature).to(ctx.product_dtype)
            others = result.masked_fill(result == -torch.inf, 0.0)[:, None]
            chunks = _chunks(scaled, negative_vector, log_q, column, ctx.chunk_items)
            parts = ((chunk, negative, logit.sub_(others).exp_()) for chunk, negative, logit in chunks)
        weighted = (user * slope[:, None]).to(ctx.product_dtype)
        by_user, by_negative = torch.zeros_like(user, dtype=log_q.dtype), torch.empty_like(negative_vector)
        for chunk, negative, share in parts:  # share: [P, C] of the negatives' softmax, up to the factor in slope
            share = share.to(ctx.product_dtype)
            by_user += share @ negative
            by_negative[chunk] = share.T @ weighted
        by_user *= slope[:, None]
        return by_user.to(user.dtype), by_negative, None, None, None, None


def _chunks(
    scaled: Tensor, negative_vector: Tensor, log_q: Tensor, column: Tensor, chunk_items: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield slices of the negatives, their vectors [C, D] and logits [P, C], in a buffer that the next overwrites."""
    positions, size = len(scaled), min(chunk_items, len(negative_vector))
    product = scaled.new_empty(positions * size)
    buffer = product if scaled.dtype == log_q.dtype else log_q.new_empty(positions * size)
    for begin in range(0, len(negative_vector), chunk_items):
        chunk = slice(begin, begin + chunk_items)
        negative = negative_vector[chunk].to(scaled.dtype)
        shape = (positions, len(negative))
        logit = buffer[: positions * len(negative)].view(shape)
        similarity = torch.mm(scaled, negative.T, out=product[: logit.numel()].view(shape))
        torch.sub(similarity, log_q[chunk], out=logit)
        take_out(logit, column - begin)
        yield chunk, negative, logit
