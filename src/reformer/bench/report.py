"""Results as JSON, a table for people, and a plot."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def write_report(folder: Path, name: str, results: dict[str, Any]) -> Path:
    """``NAME.json``, ``NAME.md`` and ``NAME.png`` in ``folder``; returns the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    table = folder / f"{name}.md"
    table.write_text(_page(results), encoding="utf-8")
    plot_comparison(results["comparison"], folder / f"{name}.png")
    return table


def _page(results: dict[str, Any]) -> str:
    machine = results["machine"]
    parts = [
        f"# Attention, {machine['date']}",
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"kernels: {machine['kernels']}. Made by `{results['command']}`.",
        "Seconds are medians of turns taken in one process; 'times' is how much longer than "
        "reformer-core (window rule) it takes.",
        comparison_table(results["comparison"]),
    ]
    if results["rates"]:
        parts.append(_rates_table(results["rates"]))
    if results["scaling"]:
        parts.append(_scaling_table(results["scaling"]))
    if results["memory"]:
        parts.append(_memory_table(results["memory"]))
    if results["training"]:
        parts.append(_training_table(results["training"]))
    return "\n\n".join(parts) + "\n"


def comparison_table(rows: Sequence[Row]) -> str:
    """Markdown: one line per length, number of rounds and contender."""
    lines = [
        "| tokens | rounds | attention | forward, s | times | forward + backward, s | times | "
        "peak extra memory, MB |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ours = next(r for r in rows if _same_case(r, row) and "window" in r["contender"])
        peak = row["peak_extra_bytes"]
        lines.append(
            f"| {row['length']:,} | {row['num_hashes']} | {row['contender']} "
            f"| {row['forward_seconds']:.4f} "
            f"| {row['forward_seconds'] / ours['forward_seconds']:.1f} "
            f"| {row['forward_backward_seconds']:.4f} "
            f"| {row['forward_backward_seconds'] / ours['forward_backward_seconds']:.1f} "
            f"| {'' if peak is None else round(peak / 1e6)} |"
        )
    return "\n".join(lines)


def _same_case(a: Row, b: Row) -> bool:
    return a["length"] == b["length"] and a["num_hashes"] == b["num_hashes"]


def _rates_table(rates: Row) -> str:
    product = rates["matmul_rate"]
    lines = ["| chunk rule | GFLOP/s | share of a 4096^3 product |", "| --- | ---: | ---: |"]
    for name in ("matmul", "forward", "backward"):
        rate = rates[f"{name}_rate"]
        lines.append(f"| {name} | {rate / 1e9:.0f} | {rate / product:.0%} |")
    return "\n".join(lines)


def _scaling_table(rows: Sequence[Row]) -> str:
    lines = ["| tokens | forward, s | microseconds per token |", "| ---: | ---: | ---: |"]
    for row in rows:
        lines.append(
            f"| {row['length']:,} | {row['forward_seconds']:.3f} | {1e6 * row['per_token']:.2f} |"
        )
    return "\n".join(lines)


def _memory_table(rows: Sequence[Row]) -> str:
    lines = [
        "| rounds | peak extra memory, MB | times inputs and output |",
        "| ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['num_hashes']} | {row['peak_extra_bytes'] / 1e6:.0f} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def _training_table(rows: Sequence[Row]) -> str:
    lines = [
        "| training step | implementation | seconds | tokens per second | peak extra memory, MB |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        peak = row["peak_extra_bytes"]
        lines.append(
            f"| {row['model']} | {row['implementation']} | {row['seconds']:.2f} "
            f"| {row['tokens_per_second']:,.0f} | {'' if peak is None else round(peak / 1e6)} |"
        )
    return "\n".join(lines)


def plot_comparison(rows: Sequence[Row], path: Path) -> None:
    """Seconds of forward + backward over the length, both logarithmic, at the most rounds."""
    from matplotlib.figure import Figure

    rounds = max(row["num_hashes"] for row in rows)
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = [r for r in rows if r["contender"] == name and r["num_hashes"] == rounds]
        lengths = [row["length"] for row in own]
        axes.plot(lengths, [row["forward_backward_seconds"] for row in own], "o-", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens")
    axes.set_ylabel("seconds, forward + backward")
    axes.set_title(f"Causal attention, 8 heads of 64, {rounds} rounds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
