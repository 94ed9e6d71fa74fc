"""What the kernels hold between two calls, seen from outside their process, and during one."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from reformer.kernels.cpu.attention import _Call, attention, attention_backward
from reformer.ops.attention import Visibility

_ATTEND = """
import sys, torch
from reformer import lsh_attention

def resident():
    status = open("/proc/self/status").read()
    return int(status.split("VmRSS:")[1].split()[0]) << 10

def attend(length):
    x = torch.ones(1, 1, length, 64, requires_grad=learns)
    out = lsh_attention(x, x, num_hashes=2, num_buckets=2, backend="cpu")
    if learns:
        out.sum().backward()

learns = sys.argv[1] == "learns"
attend(256)
before = resident()
for length in sys.argv[2:]:
    attend(int(length))
print(resident() - before)
"""


def held_after(*lengths: int, learns: bool = False) -> int:
    """Bytes by which a process has grown that attended to sequences of these lengths."""
    # Tensors that are freed go back to the system at once.
    variables = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "OMP_NUM_THREADS": "1"}
    passes = "learns" if learns else "reads"
    command = [sys.executable, "-c", _ATTEND, passes, *map(str, lengths)]
    environment = {**os.environ, **variables}
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(found.stdout)


@pytest.mark.usefixtures("kernels")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_scratch_is_kept_for_the_next_call_up_to_a_bound() -> None:
    """832 bytes a token: 52 MB at 65,536 tokens are kept, 208 MB at four times as many are not."""
    record, page = 832, 2 << 20
    assert 65536 * record < held_after(65536) < 65536 * record + 12 * page
    assert held_after(65536, 65536, 65536) < 65536 * record + 12 * page
    assert held_after(262144) < 12 * page


@pytest.mark.usefixtures("kernels")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_shared_key_has_no_sum_of_its_own_in_the_backward() -> None:
    """1,344 bytes a token: rows of query, value and upstream gradient, and two sums.

    So 49,152 tokens have just under 64 MB of scratch, which are kept; a sum more would be over.
    """
    length, record, page = 49152, 1344, 2 << 20
    assert length * record < held_after(length, learns=True) < length * record + 12 * page


PAGE = os.sysconf("SC_PAGE_SIZE")


def mapped_share(tensor: Tensor) -> float:
    """How many of the pages that lie inside a tensor the system has given memory."""
    first = -(-tensor.data_ptr() // PAGE)
    count = (tensor.data_ptr() + tensor.nbytes) // PAGE - first
    pages = (ctypes.c_ubyte * count)()
    found = ctypes.CDLL(None, use_errno=True).mincore(
        ctypes.c_void_p(first * PAGE), ctypes.c_size_t(count * PAGE), pages
    )
    assert found == 0, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in pages) / count


@pytest.mark.usefixtures("kernels")
@pytest.mark.skipif(sys.platform != "linux", reason="asks the system")
def test_large_results_are_mapped_before_the_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """While what the caller has just freed is at hand."""
    shares: list[float] = []

    def run(call: _Call, function: str) -> None:
        shares.extend(mapped_share(tensor) for tensor in call._tensors if tensor.nbytes >= 64 << 20)

    monkeypatch.setattr(_Call, "run", run)
    query = torch.ones(1, 1, 1 << 18, 64)
    visibility = Visibility("window", 8)
    out, lse = attention(query, query, query, None, None, None, visibility, 1.0, (0.0, 0))
    attention_backward(
        out, lse, out, lse, query, query, query, None, None, None, visibility, 1.0, (0.0, 0)
    )
    assert shares and shares == [1.0] * len(shares)
