"""Findings as JSON, a table for people, and a plot."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from reformer.reproduce.findings import Findings, markdown_table


def as_json(findings: Findings, context: dict[str, Any]) -> dict[str, Any]:
    """Plain values; ``context`` says by which command and on what machine."""
    return {
        "title": findings.title,
        **context,
        "passed": all(check.passed for check in findings.checks),
        "checks": [dataclasses.asdict(check) for check in findings.checks],
        "rows": findings.rows,
    }


def write_report(folder: Path, name: str, findings: Findings, context: dict[str, Any]) -> None:
    """``NAME.json``, ``NAME.md`` and ``NAME.png`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_json(findings, context), indent=2) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / f"{name}.md").write_text(page(findings, context), encoding="utf-8")
    _plot(findings, folder / f"{name}.png")


def page(findings: Findings, context: dict[str, Any]) -> str:
    """Markdown: the table, then each claim with pass or fail."""
    machine = context["machine"]
    verdicts = markdown_table(
        ["claim", "measured", "verdict"],
        [[c.claim, c.measured, "pass" if c.passed else "FAIL"] for c in findings.checks],
    )
    origin = (
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"{context['date']}. Made by `{context['command']}`."
    )
    return "\n\n".join([f"# {findings.title}", origin, findings.table, verdicts]) + "\n"


def _plot(findings: Findings, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    findings.draw(axes)
    axes.set_title(findings.title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=120)
