"""LSH beside exact and local attention: one small language model, the same text and steps.

Claims: at equal steps LSH is within 1 % of exact attention; given the time that exact attention
took, it is ahead where sequences are long.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from reformer.reproduce.findings import Check, Findings, Row, Say, Size, markdown_table
from reformer.reproduce.journal import Journal
from reformer.reproduce.language import Comparison, measure_language

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WITHIN = 1.01


def measure(size: Size, folder: Path, say: Say) -> Findings:
    """Train exact, LSH and local attention at each length, and LSH for twice the steps."""
    lengths = {4096: 200, 16384: 80} if size == "full" else {1024: 60}
    journal = Journal(folder / "quality.jsonl")
    rows = []
    for length, steps in lengths.items():
        cases = [Comparison(variant, length, 0, steps) for variant in ("exact", "lsh", "local")]
        cases.append(Comparison("lsh", length, 0, 2 * steps))
        rows += run_all(cases, journal, folder, say)
    return _judge(rows, lengths)


def run_all(
    cases: Iterable[Comparison],
    journal: Journal,
    folder: Path,
    say: Say,
    *,
    text: Path | None = None,
) -> list[Row]:
    """The rows of these cases; those that the journal does not hold are trained."""
    rows = []
    for case in cases:
        if journal.find(asdict(case)) is None:
            journal.add(measure_language(case, folder, say, text=text))
        row = journal.find(asdict(case))
        assert row is not None
        rows.append(row)
    return rows


def table(rows: list[Row]) -> str:
    """Markdown: one line per model."""
    lines = [
        [
            row["variant"],
            f"{row['length']:,}",
            str(row["steps"]),
            str(row["seed"]),
            f"{row['bits_per_byte']:.4f}",
            f"{row['seconds_per_step']:.2f}",
            f"{row['steps'] * row['seconds_per_step']:.0f}",
        ]
        for row in rows
    ]
    columns = ["attention", "tokens", "steps", "seed", "bits per byte", "s a step", "s in all"]
    return markdown_table(columns, lines)


def _judge(rows: list[Row], lengths: dict[int, int]) -> Findings:
    checks = []
    for length, steps in lengths.items():
        own = {(r["variant"], r["steps"]): r for r in rows if r["length"] == length}
        exact, lsh, longer = own["exact", steps], own["lsh", steps], own["lsh", 2 * steps]
        ratio = lsh["bits_per_byte"] / exact["bits_per_byte"]
        claim = f"{length:,} tokens: LSH within 1 % of exact attention at equal steps"
        checks.append(Check(claim, f"{ratio - 1:+.2%}", ratio <= _WITHIN))
        if length >= 16384:
            in_time = 2 * lsh["seconds_per_step"] <= exact["seconds_per_step"]
            ahead = longer["bits_per_byte"] < exact["bits_per_byte"]
            claim = f"{length:,} tokens: LSH ahead of exact attention in no more time"
            measured = (
                f"{longer['bits_per_byte']:.4f} against {exact['bits_per_byte']:.4f} bits, in "
                f"{2 * lsh['seconds_per_step'] / exact['seconds_per_step']:.0%} of the time"
            )
            checks.append(Check(claim, measured, in_time and ahead))
    title = "Bits per byte of held-out text by kind of attention"
    return Findings(title, rows, table(rows), checks, lambda axes: draw(rows, axes))


def draw(rows: list[Row], axes: "Axes") -> None:
    """Bits per byte over the seconds that training took."""
    for variant in dict.fromkeys(row["variant"] for row in rows):
        for length in dict.fromkeys(row["length"] for row in rows):
            own = [r for r in rows if (r["variant"], r["length"]) == (variant, length)]
            seconds = [row["steps"] * row["seconds_per_step"] for row in own]
            bits = [row["bits_per_byte"] for row in own]
            axes.plot(seconds, bits, "o", label=f"{variant}, {length:,} tokens")
    axes.set_xscale("log")
    axes.set(xlabel="processor seconds of training", ylabel="bits per byte")
