"""The largest tensor that an op makes, forward and backward, seen by intercepting every call."""

import pytest
import torch

from reformer.ops.attention import Dropout, Visibility
from reformer.ops.hashing import draw_rotations, hash_vectors_torch
from reformer.ops.order import sort_tokens
from reformer.ops.sliced import apply_sliced, chunked_cross_entropy
from reformer.ops.tiled import attention_torch
from reformer.ops.tiled_backward import attention_backward_torch
from tests.ops.largest_tensor import LargestTensor


def largest_in_attention(
    rule: str, length: int, rounds: int, window: int, heads: int = 1, rate: float = 0.0
) -> int:
    generator = torch.Generator().manual_seed(0)
    query, value, upstream = (
        torch.randn(1, heads, length, 8, generator=generator) for _ in range(3)
    )
    buckets = torch.randint(0, 16, (1, heads, rounds, length), generator=generator)
    order, code = sort_tokens(buckets, window)
    arguments = (Visibility(rule, window), 1.0, Dropout(rate, 1))
    with LargestTensor() as largest:
        out, lse = attention_torch(query, None, value, order, code, None, *arguments)
        attention_backward_torch(
            upstream, torch.ones_like(lse), out, lse, query, None, value, order, code, None,
            *arguments,
        )  # fmt: skip
    return largest.elements


@pytest.mark.parametrize("rule", ["window", "chunk"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_attention_makes_nothing_larger_than_one_round_of_scores(rule: str, rate: float) -> None:
    """2 W keys for each of L queries, however many rounds; far from L * L and R * L * 2 W."""
    length, window = 2048, 32
    one_round = length * 2 * window
    for rounds in (1, 4, 8):
        assert largest_in_attention(rule, length, rounds, window, rate=rate) <= one_round


def test_attention_takes_heads_in_slices_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    one_head = largest_in_attention("window", 1024, 2, 32)
    monkeypatch.setattr("reformer.ops.tiled._SLICE_SCORES", 2 * one_head)
    assert largest_in_attention("window", 1024, 2, 32, heads=12) <= 2 * one_head


def test_hashing_makes_no_projection_of_the_whole_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    length, rounds, num_buckets = 4096, 4, 64
    vectors = torch.randn(1, 2, length, 8, generator=torch.Generator().manual_seed(0))
    rotations = draw_rotations(2, 8, rounds, (num_buckets,), seed=0).matrix
    monkeypatch.setattr("reformer.ops.hashing._SLICE_ELEMENTS", 1 << 14)
    with LargestTensor() as largest:
        hash_vectors_torch(vectors, rotations, None, [num_buckets])
    assert largest.elements <= max(2 << 14, vectors.numel())


def test_the_loss_never_holds_logits_of_more_than_a_slice() -> None:
    length, width, vocabulary, slice_length = 512, 4, 1000, 32
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(length, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    labels = torch.randint(0, vocabulary, (length,), generator=generator)
    with LargestTensor() as largest:
        loss = chunked_cross_entropy(lambda x: x @ weight.T, hidden, labels, slice_length, [weight])
        loss.backward()
    assert largest.elements <= slice_length * vocabulary


def test_the_feed_forward_never_holds_its_inner_layer_of_more_than_a_slice() -> None:
    length, width, inner, slice_length = 512, 4, 1000, 32
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(length, width, generator=generator, requires_grad=True)
    weights = [torch.randn(inner, width, generator=generator, requires_grad=True) for _ in range(2)]
    with LargestTensor() as largest:
        out = apply_sliced(
            lambda t: (t @ weights[0].T).relu() @ weights[1], x, slice_length, weights
        )
        out.square().sum().backward()
    assert largest.elements <= slice_length * inner
