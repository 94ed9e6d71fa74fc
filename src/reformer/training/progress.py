"""A run in the terminal: one live line, or plain lines where there is no terminal."""

import math
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from reformer.settings import TrainingSettings
from reformer.training.metrics import training_unit


class TerminalReporter:
    """Shows steps on a live line, validations and messages as lines that stay."""

    def __init__(
        self, console: Console, settings: TrainingSettings, on_validation: Callable[[], None]
    ) -> None:
        """on_validation: called after each step that was validated."""
        self._console = console
        self._settings = settings
        self._on_validation = on_validation
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._smoothed: float | None = None
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> "TerminalReporter":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, sentence: str) -> None:
        """A sentence that stays."""
        self._console.print(Text(sentence))

    def step(self, row: dict[str, Any], tokens_seen: int) -> None:
        """Refresh the live line; print a line when the step was validated."""
        unit = training_unit(row)
        loss = row[f"train_{unit}"]
        self._smoothed = loss if self._smoothed is None else 0.95 * self._smoothed + 0.05 * loss
        line = self._line(row, unit, tokens_seen)
        self._live.update(Text(line))
        measured = {n: v for n, v in row.items() if n.startswith("validation_")}
        if measured:
            values = [f"{_shown(name, unit)}{value:.3f}" for name, value in measured.items()]
            self._console.print(Text(f"{line}   validation {', '.join(values)}"), soft_wrap=True)
            self._on_validation()

    def _line(self, row: dict[str, Any], unit: str, tokens_seen: int) -> str:
        return (
            f"step {row['step']:>{len(str(self._settings.steps))}}/{self._settings.steps}   "
            f"{format_count(tokens_seen)} tokens   "
            f"{self._smoothed:.3f} {unit.replace('_', ' ')}   "
            f"{row['tokens_per_second']:,.0f} tokens/s   "
            f"{self._time_left(row['step'])} left"
        )

    def _time_left(self, step: int) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
            return "…"
        first_step, first_time = self._first
        per_step = (now - first_time) / max(1, step - first_step)
        return format_seconds(per_step * (self._settings.steps - step))


def _shown(name: str, unit: str) -> str:
    """What stands before a validation's value; nothing when its unit was said already."""
    name = name.removeprefix("validation_")
    return "" if name == unit else name.replace("_", " ") + " "


def format_seconds(seconds: float) -> str:
    """A duration such as "42 s", "3:07" or "2:15:09"."""
    seconds = math.ceil(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_count(count: float) -> str:
    """A number for people, such as "812", "45.1 K" or "1.2 M"."""
    for unit in ("", " K", " M", " G"):
        if count < 1000:
            return f"{count:.0f}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:,.1f} T"
