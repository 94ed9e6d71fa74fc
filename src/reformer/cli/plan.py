"""``reformer plan``: the memory that training would need, before it starts."""

import json as json_format

from rich.console import Console
from rich.table import Table

from reformer.cli.arguments import PlanArguments
from reformer.config import ReformerConfig
from reformer.training.planner import (
    Plan,
    fit,
    format_bytes,
    machine_memory,
    parse_bytes,
    plan,
)


def run(arguments: PlanArguments) -> int:
    """Parse, estimate, print; with --memory, choose slices that fit, or refuse."""
    config, settings = arguments.config(), arguments.training
    available = machine_memory()
    if arguments.memory is not None:
        available = parse_bytes(arguments.memory)
        config = fit(config, settings, available)
    expected = plan(config, settings)
    if arguments.json:
        print(json_format.dumps(_values(expected, config, available), indent=2))
    else:
        _print(expected, config, available, "--memory" if arguments.memory else "this machine")
    return 0


def _values(expected: Plan, config: ReformerConfig, available: int) -> dict[str, int]:
    terms = {term.name: term.size for term in expected.terms}
    return terms | {
        "total": expected.total,
        "available": available,
        "slice_length": config.slice_length,
    }


def _print(expected: Plan, config: ReformerConfig, available: int, source: str) -> None:
    table = Table(title=f"Expected memory, {expected.num_parameters:,} parameters")
    table.add_column("for")
    table.add_column("memory", justify="right")
    table.add_column("why")
    for term in expected.terms:
        table.add_row(term.name, format_bytes(term.size), term.explanation)
    table.add_section()
    table.add_row(
        "total",
        format_bytes(expected.total),
        f"feed-forward layers and loss take {config.slice_length:,} positions at a time",
    )
    table.add_row(source, format_bytes(available), "")
    Console().print(table)
