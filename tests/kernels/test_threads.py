"""The same bits for any number of threads, and in every repetition."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from reformer.kernels import cpu
from reformer.ops.attention import Dropout, Visibility
from reformer.ops.hashing import draw_rotations

LENGTH = 5000  # several blocks for the threads to share, and a part of one


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def assert_same_bits(compute: Callable[[], tuple[Tensor | None, ...]]) -> None:
    torch.set_num_threads(1)
    wanted = compute()
    for threads in (2, 3, 2, 7):
        torch.set_num_threads(threads)
        for result, reference in zip(compute(), wanted, strict=True):
            assert (result is None) is (reference is None)
            assert result is None or torch.equal(result, reference)


@pytest.mark.parametrize("heads", [1, 3, 4])
@pytest.mark.parametrize(
    "visibility",
    [
        Visibility("window", 40),
        Visibility("window", 40, causal=False),
        Visibility("window", 40, gives_next=True),
        Visibility("window", 3000, include_self=True),
        Visibility("chunk", 64),
        Visibility("chunk", 64, causal=False, before=2, after=1),
        Visibility("chunk", 3000),
    ],
    ids=str,
)
def test_attention(build: str, heads: int, visibility: Visibility) -> None:
    if heads != 1 and visibility.length != 40 and build != "avx2":
        pytest.skip("one build is enough for this many cases")
    generator = torch.Generator().manual_seed(0)
    shape = (1, heads, 700 if visibility.length == 3000 else LENGTH, 16)
    query, value, upstream = (torch.randn(shape, generator=generator) for _ in range(3))
    buckets = torch.randint(0, 100, (1, heads, 2, shape[2]), generator=generator)
    order, code = cpu.sort_tokens(buckets, None, visibility.length)
    arguments = (query, None, value, order, code, None, visibility, 1.0, Dropout(0.1, 7))

    def both_passes() -> tuple[Tensor | None, ...]:
        out, lse = cpu.attention(*arguments)
        return out, lse, *cpu.attention_backward(upstream, lse, out, lse, *arguments)

    assert_same_bits(both_passes)


@pytest.mark.parametrize("width", [20, 32])
def test_hashing_and_sorting(build: str, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1, 3, 333, width, generator=generator)
    rotations = draw_rotations(3, width, 5, (4, 16), seed=0)
    segments = torch.randint(-1, 3, (1, 333), generator=generator)

    def hash_and_sort() -> tuple[Tensor, ...]:
        buckets = cpu.hash_vectors(vectors, *rotations, [4, 16])
        return buckets, *cpu.sort_tokens(buckets, segments, 8)

    assert_same_bits(hash_and_sort)
