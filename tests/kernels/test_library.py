"""Which library is loaded and why; and that everything works, and says so, without one."""

import os
import subprocess
import sys

import pytest
import torch

from reformer.kernels.cpu import library
from reformer.ops import dispatch
from reformer.ops.lsh_attention import lsh_attention

ATTEND = """
import torch
from reformer.ops import dispatch
from reformer.ops.lsh_attention import lsh_attention
x = torch.ones(1, 1, 20, 8)
for _ in range(2):
    lsh_attention(x, x)
print(dispatch.native_kernels().summary)
try:
    lsh_attention(x, x, backend="cpu")
except dispatch.BackendError as error:
    print(error)
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("REFORMER_CPU")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=kept | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | environment,
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


@pytest.mark.skipif("CI" not in os.environ, reason="only CI must have a compiler")
def test_ci_has_the_kernels() -> None:
    assert library.description().path is not None, library.description().reason


@pytest.mark.usefixtures("kernels")
def test_the_description_names_the_library_and_the_reason() -> None:
    found = library.description()
    assert found.path is not None and found.path.exists()
    assert found.summary.startswith(f"{found.instruction_set} ({found.reason})")
    assert dispatch.native_kernels() == found


def test_without_a_library_all_runs_on_torch_and_is_said_once() -> None:
    done = run(ATTEND, REFORMER_CPU_LIBRARY="/nowhere/reformer.so")
    assert done.stderr.count("Running on plain torch") == 1
    assert "/nowhere/reformer.so cannot be loaded" in done.stderr
    assert done.stdout.startswith("none: /nowhere/reformer.so cannot be loaded")
    assert "backend 'cpu' cannot run hash_vectors here: /nowhere/reformer.so" in done.stdout


@pytest.mark.usefixtures("kernels")
def test_an_instruction_set_can_be_forced() -> None:
    done = run(ATTEND, REFORMER_CPU_ISA="baseline")
    assert done.stdout.startswith("baseline (REFORMER_CPU_ISA=baseline asks for it)")
    assert done.stderr == ""


def test_an_instruction_set_that_does_not_exist_is_refused_with_those_that_do() -> None:
    done = run(ATTEND, REFORMER_CPU_ISA="mmx")
    assert "REFORMER_CPU_ISA=mmx is not one of baseline, avx2, avx512" in done.stdout


def test_an_instruction_set_that_the_processor_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "_can_run", lambda build: False)
    monkeypatch.setattr(library, "_path_of", lambda build: library._FOLDER)
    found = library._forced("avx512")
    assert found.handle is None
    assert "instructions that this processor does not have" in found.description.reason


@pytest.mark.usefixtures("kernels")
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux's /proc")
def test_the_process_has_one_openmp_runtime() -> None:
    maps = 'print({line.split()[-1] for line in open("/proc/self/maps") if "omp" in line})'
    runtimes = eval(run(ATTEND + maps).stdout.splitlines()[-1])
    assert len(runtimes) == 1


@pytest.mark.usefixtures("kernels")
def test_reasons_for_refusing_a_tensor() -> None:
    double = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
    with pytest.raises(dispatch.BackendError, match="the dtype is torch.float64; the kernels take"):
        lsh_attention(double, double, backend="cpu")
    assert "on meta, not on the CPU" in str(library.refusal(double.to("meta")))
    assert library.refusal(double.float()) is None
    assert library.refusal(double.bfloat16()) is None
