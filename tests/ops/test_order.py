"""The sorted order and the codes against plain Python sorting."""

import random

import pytest
import torch
from torch import Tensor

from reformer.ops.order import code_dtype, sort_tokens
from tests.ops.definition import sorted_tokens


def random_tokens(seed: int) -> tuple[Tensor, Tensor | None, int]:
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    length, batch, heads, rounds = chance.randint(1, 60), chance.randint(1, 2), 2, 3
    dtype = chance.choice([torch.uint8, torch.int16, torch.int32, torch.int64])
    buckets = torch.randint(0, chance.choice([1, 2, 9, 200]), (batch, rounds, heads, length),
                            generator=generator, dtype=dtype).transpose(1, 2)  # fmt: skip
    segments = None
    if chance.random() < 0.7:
        segments = torch.randint(-1, 3, (batch, length), generator=generator)
    return buckets, segments, chance.choice([1, 2, 8, 64])


@pytest.mark.parametrize("seed", range(40))
def test_order_and_codes_are_what_sorting_by_segment_bucket_position_gives(seed: int) -> None:
    buckets, segments, window = random_tokens(seed)
    order, code = sort_tokens(buckets, window, segment_ids=segments, backend="torch")
    batch, heads, rounds, length = buckets.shape
    for b in range(batch):
        owner = [0] * length if segments is None else segments[b].tolist()
        for h in range(heads):
            for r in range(rounds):
                hashed = buckets[b, h, r].tolist()
                expected = sorted_tokens(hashed, owner)
                assert order[b, h, r].tolist() == expected
                check_codes(code[b, h, r].tolist(), expected, hashed, owner, window)


def check_codes(
    code: list[int], order: list[int], buckets: list[int], segments: list[int], window: int
) -> None:
    """Within a run the difference of codes is that of ranks; between runs at least W."""
    rank = {token: place for place, token in enumerate(order)}
    for i in range(len(code)):
        for j in range(i):
            same = segments[i] == segments[j] >= 0 and buckets[i] == buckets[j]
            if same:
                assert code[i] - code[j] == rank[i] - rank[j]
            else:
                assert abs(code[i] - code[j]) >= window + 1
            assert (code[i] > code[j]) == (rank[i] > rank[j])


def test_padding_comes_last_and_every_pad_stands_alone() -> None:
    buckets = torch.zeros(1, 1, 1, 6, dtype=torch.uint8)
    segments = torch.tensor([[-1, 4, -1, 4, -7, 4]])
    order, code = sort_tokens(buckets, 10, segment_ids=segments)
    assert order.flatten().tolist() == [1, 3, 5, 0, 2, 4]
    pads = code[0, 0, 0, [0, 2, 4]]
    tokens = code[0, 0, 0, [1, 3, 5]]
    assert int((pads[:, None] - tokens).abs().min()) >= 10
    assert int((pads[1:] - pads[:-1]).min()) >= 10


def test_huge_segment_ids_sort_as_they_should() -> None:
    buckets = torch.tensor([1, 0, 1, 0], dtype=torch.uint8).view(1, 1, 1, 4)
    segments = torch.tensor([[2**62, 2**62, 3, 2**31]])
    order, _ = sort_tokens(buckets, 4, segment_ids=segments, backend="torch")
    assert order.flatten().tolist() == [2, 3, 1, 0]


def test_codes_grow_to_64_bits_only_where_they_must() -> None:
    assert code_dtype(2**20, 64) == torch.int32
    assert code_dtype(2**20, 2047) == torch.int64
    buckets = torch.arange(4).view(1, 1, 1, 4)
    _, code = sort_tokens(buckets, 2**30)
    assert code.dtype == torch.int64
    assert code.flatten().tolist() == [0, 2**30 + 1, 2**31 + 2, 3 * 2**30 + 3]


def test_one_token_and_no_token_sort() -> None:
    for length in (0, 1):
        order, code = sort_tokens(torch.zeros(2, 1, 3, length, dtype=torch.uint8), 4)
        assert order.shape == code.shape == (2, 1, 3, length)
        assert not order.any() and not code.any()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"buckets must be \[B, H, R, L\]"):
        sort_tokens(torch.zeros(3, 4, dtype=torch.uint8), 2)
    with pytest.raises(ValueError, match=r"segment_ids must be \[1, 4\]"):
        sort_tokens(torch.zeros(1, 1, 1, 4), 2, segment_ids=torch.zeros(4))
