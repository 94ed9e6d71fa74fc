"""What an experiment hands back: numbers, claims that hold or do not, and how to draw them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
Say = Callable[[str], None]
Size = Literal["quick", "full"]
"""Two minutes, or what is compared with the paper."""


class Interrupted(Exception):  # noqa: N818 - nothing has gone wrong
    """A signal stopped the work; the same command goes on with it. Holds the exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("stopped: everything is kept, and the same command goes on from here")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Check:
    """A claim and whether the measurement bears it out."""

    claim: str
    measured: str
    passed: bool


@dataclass(frozen=True)
class Findings:
    """The result of one experiment."""

    title: str
    rows: list[Row]
    table: str
    """Markdown."""
    checks: list[Check]
    draw: "Callable[[Axes], None]"
    """Draws the rows."""


class Experiment(Protocol):
    """A module of this package: ``reproduce.table2`` and so on."""

    def measure(self, size: Size, folder: Path, say: Say) -> Findings:
        """Run what ``folder`` does not hold yet, and judge all of it.

        ``say`` gets a sentence whenever something has been measured.
        """
        ...


def markdown_table(columns: list[str], lines: list[list[str]]) -> str:
    """The first column to the left, numbers to the right."""
    rule = [":---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [columns, rule, *lines])
