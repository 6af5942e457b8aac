"""The fused softmax against its plain form, for every chunk size and precision; and its memory."""

import pytest
import torch
from made_scores import drawn_scores, gradients

from twotower.model.history_scores import taken_out
from twotower.model.losses.cross_entropy import cross_entropy
from twotower.model.losses.softmax import _LogSumExp, softmax
from twotower.model.scoring import Scores, logits


def plain_form(scores: Scores) -> torch.Tensor:
    """The same loss from the dense logits by torch's operations, with gradients from autograd."""
    target, negative, sign = logits(scores)
    return cross_entropy(target, torch.logsumexp(negative, dim=1), sign)


@pytest.mark.parametrize("chunk_items", [1, 3, 4, 20])
def test_gradcheck(chunk_items: int) -> None:
    scores = drawn_scores(5, 8, dim=3)

    def logsumexp(user: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return _LogSumExp.apply(
            user, negative, scores.log_q, taken_out(scores.hit, None), scores.temperature, chunk_items
        )

    assert torch.autograd.gradcheck(logsumexp, (scores.user, scores.negative_vector))


@pytest.mark.parametrize("chunk_items", [7, 64, 300, None])
def test_equals_the_plain_form(chunk_items: int | None) -> None:
    scores = drawn_scores(64, 300, dim=16, dtype=torch.float32)
    torch.testing.assert_close(softmax(scores, chunk_items), plain_form(scores), rtol=1e-5, atol=1e-5)
    fused, dense = gradients(softmax(scores, chunk_items), scores), gradients(plain_form(scores), scores)
    for one, other in zip(fused, dense, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_vectors_cut_to_their_first_dimensions_do_as_well() -> None:
    scores = drawn_scores(6, 9, dim=8)
    cut = {name: getattr(scores, name)[:, :3] for name in ("user", "target_vector", "negative_vector")}
    part = scores._replace(**cut)
    fused, dense = gradients(softmax(part, 4), scores), gradients(plain_form(part), scores)
    for one, other in zip(fused, dense, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_multiplies_in_half_precision_and_sums_in_full() -> None:
    """10,000 equal terms: in bfloat16 their running sum would stop at 256."""
    scores = drawn_scores(3, 10_000, dim=4, dtype=torch.float32)
    same = scores._replace(
        negative_vector=torch.zeros(10_000, 4).requires_grad_(), log_q=torch.zeros(10_000), hit=torch.full((3,), -1)
    )
    with torch.autocast("cpu", torch.bfloat16):
        others = _LogSumExp.apply(same.user, same.negative_vector, same.log_q, taken_out(same.hit, None), 0.4, 128)
        costs = softmax(scores, 128)
    assert others.dtype == torch.float32
    assert others.exp().tolist() == pytest.approx([10_000] * 3, rel=1e-4)
    exact = plain_form(scores)
    assert costs.dtype == torch.float32
    assert not torch.equal(costs, exact), "the products are of half precision"
    torch.testing.assert_close(costs, exact, rtol=0.05, atol=0.05)
    for one, other in zip(gradients(costs, scores), gradients(exact, scores), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.slow
def test_no_tensor_is_as_large_as_the_logits() -> None:
    """What is kept for the backward pass, and every allocation of a step, seen by torch's profiler."""
    positions, negatives, dim, chunk_items = 64, 4096, 8, 32
    scores = drawn_scores(positions, negatives, dim, dtype=torch.float32)

    def largest(loss) -> int:
        with torch.profiler.profile(profile_memory=True) as profile:
            gradients(loss(scores), scores)
        return max(event.cpu_memory_usage for event in profile.events())

    assert largest(softmax) >= positions * negatives * 4
    assert largest(lambda s: softmax(s, chunk_items)) <= 2 * negatives * dim * 4
