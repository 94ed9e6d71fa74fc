"""Nothing is read or written outside the tensors: unreadable pages on both sides of each."""

import ctypes
import faulthandler
import mmap
import os
import sys

import pytest
import torch
from torch import Tensor

from reformer.kernels import cpu
from reformer.ops.attention import Dropout, Visibility
from reformer.ops.hashing import draw_rotations

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs mmap and mprotect")

PAGE = mmap.PAGESIZE
_alive: list[mmap.mmap] = []


def guarded(tensor: Tensor, at_end: bool) -> Tensor:
    """A contiguous copy that begins or ends where readable memory does."""
    size = max(1, tensor.numel() * tensor.element_size())
    pages = -(-size // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    _alive.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (start, start + (pages + 1) * PAGE):
        assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0) == 0
    offset = PAGE + (pages * PAGE - size if at_end else 0)
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
    return copy.view(tensor.shape).copy_(tensor)


@pytest.fixture(params=[True, False], ids=["end", "begin"])
def at_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """All tensors that the kernels allocate are guarded too."""
    end: bool = request.param

    def new_empty(self: Tensor, size: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        return guarded(torch.zeros(tuple(size), dtype=dtype or self.dtype), end)

    monkeypatch.setattr(Tensor, "new_empty", new_empty)
    return end


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 8, 16, 20, 64])
@pytest.mark.parametrize(
    "visibility",
    [
        Visibility("window", 9),
        Visibility("window", 9, gives_next=True),
        Visibility("window", 300, False),
        Visibility("chunk", 10),
    ],
    ids=str,
)
def test_attention(
    build: str, at_end: bool, dtype: torch.dtype, width: int, visibility: Visibility
) -> None:
    generator = torch.Generator().manual_seed(width)
    for length in (1, 7, 130):
        shape = (1, 2, length, width)
        query, key, value, upstream = (
            guarded(torch.randn(shape, generator=generator).to(dtype), at_end) for _ in range(4)
        )
        buckets = guarded(torch.randint(0, 4, (1, 2, 3, length), generator=generator), at_end)
        segments = guarded(torch.randint(-1, 2, (1, length), generator=generator), at_end)
        order, code = cpu.sort_tokens(buckets, segments, visibility.length)
        for keys in (None, key):
            rest = (keys, value, order, code, segments, visibility, 1.0, Dropout(0.2, 3))
            out, lse = cpu.attention(query, *rest)
            grads = cpu.attention_backward(upstream, lse, out, lse, query, *rest)
            assert all(g is None or g.isfinite().all() for g in grads)
    _alive.clear()


@pytest.mark.parametrize("width", [1, 3, 8, 16, 20, 64])
def test_hashing(build: str, at_end: bool, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    for length, dtype in ((1, torch.float32), (17, torch.bfloat16), (40, torch.float32)):
        vectors = guarded(torch.randn(1, 2, length, width, generator=generator).to(dtype), at_end)
        rotations = guarded(torch.randn(2, width, 3, 7, generator=generator), at_end)
        cpu.hash_vectors(vectors, rotations, None, [4, 10])
        if width >= 16 and width & (width - 1) == 0:
            signs = draw_rotations(2, width, 3, (4, 10), seed=0).signs
            assert signs is not None
            cpu.hash_vectors(vectors, rotations, guarded(signs, at_end), [4, 10])
    _alive.clear()


def test_the_guard_is_real() -> None:
    """Reading one byte past a guarded tensor kills the process that does it."""
    address = guarded(torch.zeros(5), at_end=True).data_ptr() + 20
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # this death is meant: no report of it
        ctypes.string_at(address, 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status != 0, "the sanitizers report it and exit; otherwise a signal kills it"
