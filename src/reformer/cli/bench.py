"""``reformer bench``: attention side by side with its peers, on this machine."""

import datetime
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown

from reformer.bench.attention import arithmetic_rates, compare, memory, scaling
from reformer.bench.measure import machine
from reformer.bench.report import write_report
from reformer.bench.training import training_steps
from reformer.cli.arguments import BenchArguments
from reformer.ops.dispatch import native_kernels


def run(arguments: BenchArguments) -> int:
    """Measure, write JSON, table and plot, print the table."""
    console = Console(highlight=False)
    torch.manual_seed(0)  # the peers draw their rotations from the global generator
    results: dict[str, Any] = {
        "machine": {
            **machine(),
            "date": datetime.date.today().isoformat(),
            "kernels": native_kernels().instruction_set or "none",
        },
        "command": _command(arguments),
        "comparison": _compare(arguments, console.print),
        "rates": None,
        "scaling": [],
        "memory": [],
        "training": [],
    }
    if arguments.full:
        results |= _details(arguments, console.print)
    table = write_report(arguments.out, "attention", results)
    console.print(Markdown(table.read_text(encoding="utf-8")))
    console.print(f"Written to {arguments.out}: attention.json, attention.md, attention.png")
    return 0


def _command(arguments: BenchArguments) -> str:
    words = ["reformer bench", *(["--full"] if arguments.full else [])]
    for name in ("lengths", "rounds", "repeats", "most_seconds"):
        given = getattr(arguments, name)
        if given != getattr(BenchArguments, name):
            values = given if isinstance(given, tuple) else (given,)
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(words)


def _compare(arguments: BenchArguments, say: Callable[[str], None]) -> list[dict[str, Any]]:
    rows = []
    for num_hashes in arguments.rounds:
        say(f"{num_hashes} rounds of hashing:")
        rows += compare(
            arguments.lengths,
            num_hashes=num_hashes,
            num_repeats=arguments.repeats,
            most_seconds=arguments.most_seconds,
            say=say,
        )
    return rows


def _details(arguments: BenchArguments, say: Callable[[str], None]) -> dict[str, Any]:
    rounds = max(arguments.rounds)
    say("Arithmetic rate of the chunk rule:")
    rates = arithmetic_rates(length=16384, num_hashes=rounds, num_repeats=arguments.repeats)
    say("Time per token as the sequence grows:")
    lengths = [8192 << step for step in range(8)]
    scaled = scaling(lengths, num_hashes=rounds, num_repeats=arguments.repeats, say=say)
    say("Peak extra memory at 65,536 tokens:")
    peaks = memory(length=65536, rounds=(1, 8, 16), say=say)
    say("Whole training steps:")
    steps = training_steps(
        num_repeats=arguments.repeats, most_seconds=arguments.most_seconds, say=say
    )
    return {"rates": rates, "scaling": scaled, "memory": peaks, "training": steps}
