"""``reformer plan``: the memory that training would need, before it starts."""

import json as json_format

from rich.console import Console
from rich.table import Table

from reformer.cli.arguments import PlanArguments
from reformer.training.planner import format_bytes, machine_memory, plan


def run(arguments: PlanArguments) -> int:
    """Parse, estimate, print."""
    expected = plan(arguments.config(), arguments.training)
    if arguments.json:
        values = {**expected.terms(), "total": expected.total, "available": machine_memory()}
        print(json_format.dumps(values, indent=2))
        return 0
    table = Table(title=f"Expected memory, {expected.num_parameters:,} parameters")
    table.add_column("for")
    table.add_column("memory", justify="right")
    for term, size in expected.terms().items():
        table.add_row(term, format_bytes(size))
    table.add_section()
    table.add_row("total", format_bytes(expected.total))
    table.add_row("this machine", format_bytes(machine_memory()))
    Console().print(table)
    return 0
