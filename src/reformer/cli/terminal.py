"""What a model wrote or counted, made safe and ready to show."""

from rich.table import Table


def printable(text: str) -> str:
    """The text without control characters (now U+FFFD): they could steer the terminal.

    Line breaks and tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def table_of_counts(name: str, counts: dict[str, dict[str, int]]) -> Table:
    """Rows of counts by column, such as a confusion matrix: what is right, and what was said."""
    table = Table(title=name.removeprefix("validation_").replace("_", " "))
    table.add_column("right")
    for column in next(iter(counts.values())):
        table.add_column(printable(column), justify="right")
    for row, values in counts.items():
        table.add_row(printable(row), *(f"{value:,}" for value in values.values()))
    return table
