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
    x = torch.ones(1, 1, length, 64)
    lsh_attention(x, x, num_hashes=2, num_buckets=2, backend="cpu")

attend(256)
before = resident()
for length in sys.argv[1:]:
    attend(int(length))
print(resident() - before)
"""


def held_after(*lengths: int) -> int:
    """Bytes by which a process has grown that attended to sequences of these lengths."""
    # Tensors that are freed go back to the system at once.
    variables = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _ATTEND, *map(str, lengths)]
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
