"""The loss curve as a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reformer import durable
from reformer.training.metrics import training_unit


def plot_losses(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw the loss over steps into a PNG, from the rows of metrics.jsonl."""
    # Imported here: half a second that only runs which validate should pay.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [row["step"] for row in rows]
    unit = training_unit(rows[-1])
    losses = [row[f"train_{unit}"] for row in rows]
    axes.plot(steps, losses, color="#9db4c0", linewidth=0.7, label="training, each step")
    axes.plot(steps, _smoothed(losses), color="#253237", linewidth=1.4, label="training, smoothed")
    validated = [row for row in rows if f"validation_{unit}" in row]
    axes.plot(
        [row["step"] for row in validated],
        [row[f"validation_{unit}"] for row in validated],
        color="#d1495b",
        marker="o",
        markersize=3,
        label="validation",
    )
    axes.set(xlabel="step", ylabel=unit.replace("_", " "), title=title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    temporary = path.with_name(durable.TEMPORARY + path.name)
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average over about a twentieth of the run, without the cold start."""
    decay = math.exp(-20.0 / max(20, len(values)))
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total = decay * total + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        smoothed.append(total / weight)
    return smoothed
