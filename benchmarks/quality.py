"""Bits per byte of one small language model with each kind of attention and each setting.

Every variant of ``reformer.reproduce.variants`` learns the same sequences of one text in the
same order for the same number of steps; the last 5 % of the text judge it. One JSON line per
(variant, length, seed, steps, text) is kept in OUT/quality.jsonl, so the command goes on where it
stopped; quality.json, quality.md and quality.png show all lines of it.

    python benchmarks/quality.py --lengths 4096 --steps 200
    python benchmarks/quality.py --variants exact lsh local --lengths 16384 --steps 80
    python benchmarks/quality.py --variants exact lsh local --steps 400 --text code
"""

import argparse
import json
from pathlib import Path

import torch

from reformer.bench.measure import machine
from reformer.reproduce.journal import Journal
from reformer.reproduce.language import Comparison
from reformer.reproduce.quality import draw, run_all, table
from reformer.reproduce.variants import VARIANTS


def main() -> None:
    """Train what the folder does not hold; then the table and the plot of all that it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[4096])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--text", default="novel", help="novel, code, or a file")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # seconds are processor seconds of one core
    cases = [
        Comparison(variant, length, seed, arguments.steps, arguments.text)
        for length in arguments.lengths
        for seed in arguments.seeds
        for variant in arguments.variants
    ]
    journal = Journal(arguments.out / "quality.jsonl")
    run_all(cases, journal, arguments.out, lambda sentence: print(sentence, flush=True))
    rows = sorted(journal.rows, key=lambda row: (row["length"], row["bits_per_byte"]))
    numbers = [{name: row[name] for name in row if name != "losses"} for row in rows]
    text = json.dumps({"machine": machine(), "rows": numbers}, indent=2) + "\n"
    (arguments.out / "quality.json").write_text(text, encoding="utf-8")
    (arguments.out / "quality.md").write_text(table(rows) + "\n", encoding="utf-8")
    _plot(rows, arguments.out / "quality.png")
    print(table(rows))


def _plot(rows: list[dict[str, object]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    draw(rows, axes)
    axes.legend(fontsize="x-small", frameon=False, ncols=2)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
