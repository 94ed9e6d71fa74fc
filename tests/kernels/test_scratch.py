"""What the kernels hold between two calls, seen from outside their process."""

import os
import subprocess
import sys

import pytest

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
