"""Softmax cross-entropy, full or sampled, all logits at once or in chunks.

Shapes: P target positions, N negatives, D dim, C negatives of a chunk.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from twotower.model.losses.cross_entropy import cross_entropy
from twotower.model.scoring import Scores, mask_hits, target_logit


def softmax(scores: Scores, chunk_items: int | None = None) -> Tensor:
    """Cross-entropy of the target among itself and the negatives, [P].

    With every item as a negative this is the full softmax; with sampled ones and logQ, its estimate.

    Args:
        scores: of P positions.
        chunk_items: C, how many negatives have their logits at one time: beside the gradients, memory is that of
            [P, C] numbers, whatever N. The backward pass computes them again (as Cut Cross-Entropy, Wijmans et al.
            2024), a fourth matrix product beside three. None: all at once, kept for the backward pass.
    """
    others = _LogSumExp.apply(  # type: ignore[no-untyped-call]
        scores.user, scores.negative_vector, scores.log_q, scores.hit, scores.temperature,
        chunk_items or max(1, len(scores.log_q)),
    )  # fmt: skip
    return cross_entropy(target_logit(scores), others, scores.sign)


class _LogSumExp(torch.autograd.Function):
    """[P] log of the summed exponentials of a position's corrected logits, its own target left out.

    Under autocast the matrix products are those of its dtype, sums and exponentials float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        user: Tensor,
        negative_vector: Tensor,
        log_q: Tensor,
        hit: Tensor,
        temperature: float,
        chunk_items: int,
    ) -> Tensor:
        kind = user.device.type
        ctx.product_dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else user.dtype
        ctx.temperature, ctx.chunk_items = temperature, chunk_items
        total = torch.zeros(len(user), dtype=log_q.dtype, device=user.device)
        largest = torch.full_like(total, torch.finfo(total.dtype).min)  # finite: a chunk may have nothing but -inf
        scaled = (user / temperature).to(ctx.product_dtype)
        for _, _, logit in _chunks(scaled, negative_vector, log_q, hit, chunk_items):
            new = torch.maximum(largest, logit.amax(1))
            total.mul_((largest - new).exp_()).add_(logit.sub_(new[:, None]).exp_().sum(1))
            largest = new
        result = largest + total.log()
        if chunk_items >= len(negative_vector):  # the only chunk's shares are `logit` / `total`
            ctx.save_for_backward(user, negative_vector, log_q, hit, result, logit, total)
        else:
            ctx.save_for_backward(user, negative_vector, log_q, hit, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        user, negative_vector, log_q, hit, result, *kept = ctx.saved_tensors
        slope = grad / ctx.temperature
        if kept:
            slope = slope / kept[1].clamp(min=torch.finfo(slope.dtype).tiny)
            parts = iter([(slice(None), negative_vector.to(ctx.product_dtype), kept[0])])
        else:
            scaled = (user / ctx.temperature).to(ctx.product_dtype)
            others = result.masked_fill(result == -torch.inf, 0.0)[:, None]
            chunks = _chunks(scaled, negative_vector, log_q, hit, ctx.chunk_items)
            parts = ((chunk, negative, logit.sub_(others).exp_()) for chunk, negative, logit in chunks)
        weighted = (user * slope[:, None]).to(ctx.product_dtype)
        by_user, by_negative = torch.zeros_like(user, dtype=log_q.dtype), torch.empty_like(negative_vector)
        for chunk, negative, share in parts:  # share: [P, C] of the negatives' softmax, but for the slope's factor
            share = share.to(ctx.product_dtype)
            by_user += share @ negative
            by_negative[chunk] = share.T @ weighted
        by_user *= slope[:, None]
        return by_user.to(user.dtype), by_negative, None, None, None, None


def _chunks(
    scaled: Tensor, negative_vector: Tensor, log_q: Tensor, hit: Tensor, chunk_items: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Which negatives, their vectors [C, D] and logits [P, C]; these lie in one buffer, which the next overwrites."""
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
        mask_hits(logit, hit - begin)
        yield chunk, negative, logit
