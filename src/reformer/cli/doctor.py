"""``reformer doctor``: what is in use on this machine, and why."""

import json as json_format
import os
import platform

import torch
from rich.console import Console
from rich.table import Table

from reformer import __version__
from reformer.cli.arguments import DoctorArguments
from reformer.cli.devices import multiplies_bfloat16
from reformer.ops.dispatch import OPS, native_kernels, refusal
from reformer.training.planner import format_bytes, machine_memory

_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def run(arguments: DoctorArguments) -> int:
    """Print versions, the machine, the kernels and which backend each op would use."""
    facts = {
        "reformer-core": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "memory": format_bytes(machine_memory()),
        "kernels": native_kernels().summary,
    }
    fast = multiplies_bfloat16(torch.device("cpu"))
    facts["bfloat16 products"] = "fast" if fast else "slow: the processor has no instructions"
    for dtype in _DTYPES:
        name = str(dtype).removeprefix("torch.")
        facts[f"{name} on the CPU"] = _backends(torch.empty(0, dtype=dtype))
    if arguments.json:
        print(json_format.dumps(facts, indent=2))
        return 0
    table = Table(show_header=False)
    for fact, value in facts.items():
        table.add_row(fact, value)
    Console().print(table)
    return 0


def _backends(tensor: torch.Tensor) -> str:
    """What "auto" takes for tensors like this one."""
    refusals = {op: refusal(op, "cpu", tensor) for op in OPS}
    reasons = {reason for reason in refusals.values() if reason is not None}
    if not reasons:
        return "native kernels"
    return "plain torch: " + "; ".join(sorted(reasons))
