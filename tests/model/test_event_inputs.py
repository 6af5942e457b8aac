"""Event inputs: one embedding each, added to the item's vector."""

import pytest
import torch

from twotower.model.event_inputs import EventInputs

SIZES = {"gap": 4, "items": 3, "hour": 25}


def test_embeddings_are_added_up_in_the_order_of_the_columns() -> None:
    torch.manual_seed(0)
    inputs = EventInputs(SIZES, 5)
    for embedding in inputs.embeddings:
        torch.nn.init.normal_(embedding.weight)
    vectors, codes = torch.randn(2, 3, 5), torch.stack([torch.randint(n, (2, 3)) for n in SIZES.values()], dim=-1)
    result, seconds = inputs(vectors, codes)
    assert seconds.shape == (2, 3) and not seconds.any()
    for b in range(2):
        for p in range(3):
            expected = vectors[b, p]
            for k in range(3):
                expected = expected + inputs.embeddings[k].weight[codes[b, p, k]]
            torch.testing.assert_close(result[b, p], expected)


def test_at_first_they_change_nothing_and_every_code_is_learnt() -> None:
    inputs = EventInputs(SIZES, 5)
    vectors, codes = torch.randn(2, 3, 5), torch.zeros(2, 3, 3, dtype=torch.long)
    result, _ = inputs(vectors, codes)
    assert torch.equal(result, vectors)
    result.sum().backward()
    for embedding in inputs.embeddings:
        assert embedding.weight.grad[0].tolist() == [6.0] * 5, "code 0 too"
        assert not embedding.weight.grad[1:].any()


def test_without_inputs_there_is_nothing_to_learn() -> None:
    inputs = EventInputs({}, 5)
    vectors = torch.randn(2, 3, 5)
    assert inputs(vectors, torch.zeros(2, 3, 0, dtype=torch.long))[0] is vectors
    assert list(inputs.parameters()) == []


def test_times_are_handed_on_and_no_embedding() -> None:
    torch.manual_seed(0)
    inputs = EventInputs({"gap": 4, "time": 10**11, "hour": 25}, 5)
    assert [embedding.num_embeddings for embedding in inputs.embeddings] == [4, 25]
    for embedding in inputs.embeddings:
        torch.nn.init.normal_(embedding.weight)
    vectors, codes = torch.randn(1, 2, 5), torch.tensor([[[3, 1_700_000_000, 24], [0, 1_700_000_009, 7]]])
    result, seconds = inputs(vectors, codes)
    assert seconds.tolist() == [[1_700_000_000, 1_700_000_009]]
    gap, hour = (embedding.weight for embedding in inputs.embeddings)
    torch.testing.assert_close(result[0], vectors[0] + gap[[3, 0]] + hour[[24, 7]])


@pytest.mark.parametrize("columns", [0, 2, 4])
def test_columns_must_be_as_many_as_inputs(columns: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        EventInputs(SIZES, 5)(torch.randn(2, 3, 5), torch.zeros(2, 3, columns, dtype=torch.long))
