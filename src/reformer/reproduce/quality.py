"""LSH beside exact and local attention: one small language model, the same text and steps.

Claims: at equal steps LSH is within 1 % of exact attention; where sequences are long, it takes
twice the steps in less time than exact attention takes, and is ahead.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reformer.reproduce.findings import Check, Findings, Row, Say, Size, markdown_table
from reformer.reproduce.journal import Journal
from reformer.reproduce.language import Comparison, measure_language

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WITHIN = 1.01
_LONG = 16384
"""From this length on, time is compared as well."""


@dataclass(frozen=True)
class Course:
    """How long models are trained on sequences of one length, and with which seeds."""

    length: int
    steps: int
    seeds: tuple[int, ...]


FULL = (Course(4096, 500, (0,)), Course(_LONG, 100, (0,)))
QUICK = (Course(1024, 60, (0,)),)


def measure(size: Size, folder: Path, say: Say) -> Findings:
    """Train exact, LSH and local attention at each length; where time counts, LSH for longer."""
    courses = FULL if size == "full" else QUICK
    journal = Journal(folder / "quality.jsonl")
    rows = run_all([case for course in courses for case in _cases(course)], journal, folder, say)
    return _judge(rows, courses)


def _cases(course: Course) -> list[Comparison]:
    length, steps, first = course.length, course.steps, course.seeds[0]
    kinds = [(kind, seed) for seed in course.seeds for kind in ("exact", "lsh")]
    cases = [Comparison(kind, length, seed, steps) for kind, seed in kinds]
    cases.append(Comparison("local", length, first, steps))
    if length >= _LONG:
        cases.append(Comparison("lsh", length, first, 2 * steps))
    return cases


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
            f"{seconds(row):.0f}",
        ]
        for row in rows
    ]
    columns = ["attention", "tokens", "steps", "seed", "bits per byte", "s a step", "s in all"]
    return markdown_table(columns, lines)


def _judge(rows: list[Row], courses: Sequence[Course]) -> Findings:
    checks = []
    for course in courses:
        own = [row for row in rows if row["length"] == course.length]
        exact, lsh = (
            [r for r in own if r["variant"] == variant and r["steps"] == course.steps]
            for variant in ("exact", "lsh")
        )
        ratio = _mean_bits(lsh) / _mean_bits(exact)
        name = f"{course.length:,} tokens, {course.steps} steps"
        claim = f"{name}: LSH within 1 % of exact attention"
        checks.append(Check(claim, f"{ratio - 1:+.2%}", ratio <= _WITHIN))
        longer = max(own, key=lambda row: (row["variant"] == "lsh", row["steps"]))
        if course.length >= _LONG:
            checks.append(_ahead_in_time(exact[0], longer))
    title = "Bits per byte of held-out text by kind of attention"
    return Findings(title, rows, table(rows), checks, lambda axes: draw(rows, axes))


def _mean_bits(rows: list[Row]) -> float:
    return statistics.fmean(row["bits_per_byte"] for row in rows)


def _ahead_in_time(exact: Row, lsh: Row) -> Check:
    share = seconds(lsh) / seconds(exact)
    measured = (
        f"{lsh['bits_per_byte']:.4f} against {exact['bits_per_byte']:.4f} bits, in "
        f"{share:.0%} of the time"
    )
    passed = share <= 1.0 and lsh["bits_per_byte"] < exact["bits_per_byte"]
    claim = f"{exact['length']:,} tokens: LSH ahead of exact attention in no more time"
    return Check(claim, measured, passed)


def seconds(row: Row) -> float:
    """Processor seconds of the whole training."""
    return float(row["steps"] * row["seconds_per_step"])


def draw(rows: list[Row], axes: "Axes") -> None:
    """Bits per byte over the seconds that training took."""
    for variant, length in dict.fromkeys((row["variant"], row["length"]) for row in rows):
        own = [r for r in rows if (r["variant"], r["length"]) == (variant, length)]
        bits = [row["bits_per_byte"] for row in own]
        label = f"{variant}, {length:,} tokens"
        axes.plot([seconds(row) for row in own], bits, "o", label=label)
    axes.set_xscale("log")
    axes.set(xlabel="processor seconds of training", ylabel="bits per byte")
