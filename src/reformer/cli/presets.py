"""``reformer presets``: the named models and what they are for."""

from rich.console import Console
from rich.table import Table

from reformer.cli.arguments import PresetsArguments
from reformer.cli.model_flags import layer_kinds
from reformer.presets import PRESETS


def run(arguments: PresetsArguments) -> int:
    """Print the table."""
    table = Table()
    for column in ("preset", "what", "layers", "width", "length", "steps"):
        table.add_column(column)
    for name, make in PRESETS.items():
        config, settings = make()
        summary = (make.__doc__ or "").splitlines()[0]
        sizes = (config.hidden_size, config.max_length, settings.steps)
        table.add_row(name, summary, layer_kinds(config), *(f"{size:,}" for size in sizes))
    Console().print(table)
    return 0
