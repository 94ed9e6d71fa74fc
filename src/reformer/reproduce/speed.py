"""The paper's figure 5, right: time per step as sequences grow and the tokens stay as many.

Forward and backward of attention, causal, on the same number of tokens cut into fewer and
fewer, longer and longer sequences. LSH attention's time should not change; exact attention's
grows with the length.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reformer.bench.attention import forward_backward
from reformer.bench.contenders import Contender, Exact, Ours, Shape
from reformer.bench.measure import time_by_turns
from reformer.reproduce.findings import Check, Findings, Row, Say, Size, markdown_table
from reformer.training.allocator import keep_freed_memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEADS = 4
_FLAT = 1.15
"""Longest over shortest time that still counts as flat."""
_MOST_SECONDS = 1.5
"""Whoever takes longer has one turn only."""


def measure(size: Size, folder: Path, say: Say) -> Findings:
    """Time LSH attention with several rounds, and exact attention, at each length.

    A minute or two, all in one go: nothing is kept in the folder.
    """
    tokens = 32768 if size == "full" else 8192
    lengths = [1 << n for n in range(10, tokens.bit_length())]
    keep_freed_memory()  # as `reformer train` does with so few tokens
    rows = _time(lengths, tokens, repeats=21 if size == "full" else 3)
    for row in rows:
        times = ", ".join(f"{name} {s:.3f} s" for name, s in row["seconds"].items())
        say(f"{tokens // row['length']} sequences of {row['length']:,} tokens: {times}")
    return _judge(rows, tokens)


def _contenders() -> dict[str, tuple[Contender, int]]:
    ours = {f"LSH, {rounds} rounds": (Ours("window"), rounds) for rounds in (8, 4, 2)}
    return {**ours, "exact": (Exact(), 1)}


def _time(lengths: Sequence[int], tokens: int, repeats: int) -> list[Row]:
    # Lengths take turns, so that what else the machine does hits them all alike.
    contenders, works = _contenders(), {}
    for length in lengths:
        shape = Shape(length, num_heads=_HEADS, num_sequences=tokens // length)
        inputs = shape.inputs()
        for name, (contender, rounds) in contenders.items():
            attention = contender.make(dataclasses.replace(shape, num_hashes=rounds))
            works[name, length] = forward_backward(attention, *inputs)
    next(iter(works.values()))()  # what is loaded and started at the first call counts for nobody
    times = time_by_turns(works, num_repeats=repeats, most_seconds=_MOST_SECONDS)
    return [
        {"length": n, "tokens": tokens, "seconds": {name: times[name, n] for name in contenders}}
        for n in lengths
    ]


def _judge(rows: list[Row], tokens: int) -> Findings:
    names = list(_contenders())
    lines = [[f"{r['length']:,}", *(f"{r['seconds'][name]:.3f}" for name in names)] for r in rows]
    checks = []
    for name in names[:-1]:
        times = [row["seconds"][name] for row in rows]
        ratio = max(times) / min(times)
        claim = f"{name}: time flat within 15 % from {rows[0]['length']:,} to {tokens:,} tokens"
        checks.append(Check(claim, f"longest over shortest {ratio:.2f}", ratio <= _FLAT))
    last = rows[-1]["seconds"]
    ratio = last["exact"] / last[names[1]]
    claim = f"{names[1]}: faster than exact attention at {tokens:,} tokens"
    checks.append(Check(claim, f"{ratio:.1f} times", ratio > 1))
    title = f"Seconds per step of {tokens:,} tokens (figure 5): attention, {_HEADS} heads of 64"
    table = markdown_table(["length of a sequence", *names], lines)
    return Findings(title, rows, table, checks, lambda axes: _draw(rows, names, axes))


def _draw(rows: list[Row], names: list[str], axes: "Axes") -> None:
    lengths = [row["length"] for row in rows]
    for name in names:
        style = "s--" if name == "exact" else "o-"
        axes.plot(lengths, [row["seconds"][name] for row in rows], style, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="tokens in a sequence", ylabel="seconds, forward + backward")
