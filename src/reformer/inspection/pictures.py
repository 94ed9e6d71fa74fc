"""An inspection as pictures: bucket sizes, what LSH finds, and who attends to whom."""

from pathlib import Path
from typing import TYPE_CHECKING

from reformer.inspection.attention import Inspection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = ("buckets.png", "coverage.png", "attention.png")


def write_pictures(inspection: Inspection, folder: Path) -> None:
    """Draw all of ``PICTURES`` into a folder."""
    figures = (_buckets(inspection), _coverage(inspection), _attention(inspection))
    for name, figure in zip(PICTURES, figures, strict=True):
        figure.savefig(folder / name, dpi=120)


def _label(inspection: Inspection, index: int) -> str:
    report = inspection.reports[index]
    return f"layer {report.layer}, head {report.head}"


def _buckets(inspection: Inspection) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, report in enumerate(inspection.reports):
        label = f"{_label(inspection, index)}: {report.effective_buckets:.0f} effective"
        axes.step(range(1, report.num_buckets + 1), report.bucket_sizes, label=label)
    axes.axhline(inspection.length / inspection.reports[0].num_buckets, color="grey", linestyle=":")
    axes.set(xlabel="bucket, by size", ylabel="tokens", title="Buckets of the first round")
    axes.legend(fontsize="small", frameon=False)
    return figure


def _coverage(inspection: Inspection) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    rounds, distances = figure.subplots(1, 2)
    for index, report in enumerate(inspection.reports):
        label = _label(inspection, index)
        found = report.covered_by_rounds
        (line,) = rounds.plot(range(1, len(found) + 1), found, "o-", label=label)
        octaves = [1 << octave for octave in range(len(report.mass_by_distance))]
        distances.plot(octaves, report.mass_by_distance, color=line.get_color(), label=label)
        distances.plot(octaves, report.covered_by_distance, "--", color=line.get_color())
    rounds.set(xlabel="rounds of hashing", ylabel="share of the attention mass found", ylim=(0, 1))
    rounds.legend(fontsize="small", frameon=False)
    distances.set_xscale("log", base=2)
    distances.set(
        xlabel="distance in tokens, by octave",
        ylabel="attention mass",
        title="exact attention (lines), found by LSH (dashes)",
    )
    return figure


def _attention(inspection: Inspection) -> "Figure":
    from matplotlib.figure import Figure

    count = len(inspection.pictures)
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(4 * columns, 4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for index, axes in enumerate(panels):
        if index >= count:
            axes.set_axis_off()
            continue
        picture = inspection.pictures[index]
        axes.imshow(picture.sqrt().numpy(), aspect="auto", cmap="magma", vmin=0, vmax=1)
        axes.set(xlabel="key", ylabel="query", title=_label(inspection, index), xticks=[])
        axes.set_yticks(
            [0, len(picture) - 1], [int(inspection.queries[0]), int(inspection.queries[-1])]
        )
    return figure
