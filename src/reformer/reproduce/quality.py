"""LSH beside exact and local attention: one small language model, the same text and steps.

Claims: at equal steps LSH is within 1 % of exact attention; where sequences are long, it takes
twice the steps in less time than exact attention takes, and is ahead; on code, where much is said
again far away, it is ahead of local attention.
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
_MARKERS = "os^Dv*"
"""In plots, one for each text and length; each kind of attention has its colour."""


@dataclass(frozen=True)
class Course:
    """How long models are trained on sequences of one length, with which seeds, on which text."""

    length: int
    steps: int
    seeds: tuple[int, ...]
    text: str = "novel"

    def case(self, variant: str, seed: int, times: int = 1) -> Comparison:
        """One of its models, or one that is trained for that many times its steps."""
        return Comparison(variant, self.length, seed, times * self.steps, self.text)


FULL = (
    Course(4096, 500, (0, 1, 2)),
    Course(_LONG, 100, (0, 1, 2)),
    Course(4096, 400, (0, 1), "code"),
)
QUICK = (Course(1024, 60, (0,)), Course(1024, 60, (0,), "code"))


def measure(size: Size, folder: Path, say: Say) -> Findings:
    """Train exact, LSH and local attention at each length; where time counts, LSH for longer."""
    courses = FULL if size == "full" else QUICK
    journal = Journal(folder / "quality.jsonl")
    rows = run_all([case for course in courses for case in _cases(course)], journal, folder, say)
    return _judge(rows, courses)


def _cases(course: Course) -> list[Comparison]:
    first = course.seeds[0]
    cases = [course.case(kind, seed) for seed in course.seeds for kind in ("exact", "lsh")]
    cases += [course.case(kind, first) for kind in ("local", "lsh-own")]
    if course.length >= _LONG:
        cases.append(course.case("lsh", first, times=2))
    return cases


def run_all(cases: Iterable[Comparison], journal: Journal, folder: Path, say: Say) -> list[Row]:
    """The rows of these cases; those that the journal does not hold are trained."""
    rows = []
    for case in cases:
        if journal.find(asdict(case)) is None:
            journal.add(measure_language(case, folder, say))
        row = journal.find(asdict(case))
        assert row is not None
        rows.append(row)
    return rows


def table(rows: list[Row]) -> str:
    """Markdown: one line per model."""
    lines = [
        [
            row["variant"],
            Path(row["text"]).stem,
            f"{row['length']:,}",
            str(row["steps"]),
            str(row["seed"]),
            f"{row['bits_per_byte']:.4f}",
            f"{row['seconds_per_step']:.2f}",
            f"{seconds(row):.0f}",
        ]
        for row in rows
    ]
    columns = [
        "attention",
        "text",
        "tokens",
        "steps",
        "seed",
        "bits per byte",
        "s a step",
        "s in all",
    ]
    return markdown_table(columns, lines)


def _judge(rows: list[Row], courses: Sequence[Course]) -> Findings:
    checks = []
    for course in courses:
        own = [r for r in rows if (r["length"], r["text"]) == (course.length, course.text)]
        exact, lsh, local = (
            [r for r in own if r["variant"] == variant and r["steps"] == course.steps]
            for variant in ("exact", "lsh", "local")
        )
        name = f"{course.text}, {course.length:,} tokens, {course.steps} steps"
        ratio = _mean_bits(lsh) / _mean_bits(exact)
        claim = f"{name}: LSH within 1 % of exact attention"
        checks.append(Check(claim, f"{ratio - 1:+.2%}", ratio <= _WITHIN))
        if course.length >= _LONG:
            longer = max(own, key=lambda row: (row["variant"] == "lsh", row["steps"]))
            checks.append(_ahead_in_time(exact[0], longer))
        if course.text == "code":
            ratio = _mean_bits(lsh) / _mean_bits(local)
            claim = f"{name}: LSH ahead of local attention"
            checks.append(Check(claim, f"{ratio - 1:+.2%}", ratio < 1.0))
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
    keys = ("variant", "text", "length")
    kinds = list(dict.fromkeys(tuple(row[key] for key in keys) for row in rows))
    colours = list(dict.fromkeys(kind[0] for kind in kinds))
    markers = list(dict.fromkeys(kind[1:] for kind in kinds))
    for kind in kinds:
        own = [row for row in rows if tuple(row[key] for key in keys) == kind]
        bits = [row["bits_per_byte"] for row in own]
        label = f"{kind[0]}, {Path(kind[1]).stem}, {kind[2]:,} tokens"
        marker = _MARKERS[markers.index(kind[1:]) % len(_MARKERS)]
        colour = f"C{colours.index(kind[0])}"
        axes.plot([seconds(row) for row in own], bits, marker, color=colour, label=label)
    axes.set_xscale("log")
    axes.set(xlabel="processor seconds of training", ylabel="bits per byte")
