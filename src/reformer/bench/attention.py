"""Attention side by side: time, scaling and memory, forward and backward."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reformer.bench.contenders import (
    Attention,
    Contender,
    Exact,
    HuggingFace,
    OurLocal,
    Ours,
    ReformerPytorch,
    Shape,
    is_installed,
)
from reformer.bench.measure import (
    Measured,
    Work,
    matmul_rate,
    measure_by_turns,
    peak_extra_bytes,
    time_by_turns,
)

CONTENDERS: tuple[Contender, ...] = (
    Ours("window"),
    Ours("chunk"),
    OurLocal(),
    Exact(),
    HuggingFace(),
    ReformerPytorch(),
)
# Twice as many tokens take two to four times as long, and twice the memory.
_MOST_SECONDS = 100.0
_MOST_BYTES = 4 * 10**9
Say = Callable[[str], None]
Row = dict[str, Any]


def compare(
    lengths: Sequence[int],
    *,
    num_hashes: int,
    num_repeats: int,
    most_seconds: float,
    say: Say,
) -> list[Row]:
    """One row per length and contender: seconds forward, and forward + backward.

    Whoever needs longer than ``most_seconds`` has one turn only. Whoever needs longer than 100
    seconds, or more than 4 GB, sits out the longer lengths.
    """
    rows: list[Row] = []
    out: set[str] = set()
    for contender in CONTENDERS:
        if not is_installed(contender):
            say(f"{contender.name} is not installed (pip install {contender.package}): left out.")
            out.add(contender.name)
    for length in lengths:
        shape = Shape(length, num_hashes)
        present = [c for c in CONTENDERS if c.name not in out]
        forward = time_by_turns(
            {c.name: _forward(c, shape) for c in present},
            num_repeats=num_repeats,
            most_seconds=most_seconds,
        )
        both = measure_by_turns(
            {c.name: _forward_backward(c, shape) for c in present},
            num_repeats=num_repeats,
            most_seconds=most_seconds,
        )
        for contender in present:
            name = contender.name
            rows.append(
                {
                    "length": length,
                    "num_hashes": num_hashes,
                    "contender": name,
                    "forward_seconds": forward[name],
                    "forward_backward_seconds": both[name].seconds,
                    "peak_extra_bytes": both[name].peak_extra_bytes,
                }
            )
        out |= {name for name, measured in both.items() if _is_too_much(measured)}
        say(f"{length:>9,} tokens: {_summary(rows, length)}")
    return rows


def _is_too_much(measured: Measured) -> bool:
    peak = measured.peak_extra_bytes or 0
    return measured.seconds > _MOST_SECONDS or peak > _MOST_BYTES


def _summary(rows: Sequence[Row], length: int) -> str:
    own = [r for r in rows if r["length"] == length]
    return ", ".join(f"{r['contender']} {r['forward_backward_seconds']:.3f} s" for r in own)


def arithmetic_rates(*, length: int, num_hashes: int, num_repeats: int) -> Row:
    """The chunk rule's rate beside that of a 4096^3 product in the same minutes.

    Counted: the products of every query with the 2 c keys of its chunks and of the weights
    with their values, 8 R L c K operations per head forward, and 5/2 of it backward. Hashing
    and sorting are in the time, not in the count.
    """
    shape = Shape(length, num_hashes)
    contender = Ours("chunk")
    products = matmul_rate()
    forward, both = _forward(contender, shape), _forward_backward(contender, shape)
    seconds = time_by_turns(
        {"forward": forward, "both": both}, num_repeats=num_repeats, most_seconds=60
    )
    operations = 8.0 * shape.num_hashes * length * shape.window_length * shape.head_size
    operations *= shape.num_heads
    return {
        "length": length,
        "matmul_rate": products,
        "forward_rate": operations / seconds["forward"],
        "backward_rate": 2.5 * operations / (seconds["both"] - seconds["forward"]),
    }


def scaling(lengths: Sequence[int], *, num_hashes: int, num_repeats: int, say: Say) -> list[Row]:
    """Seconds per token of this library's forward, window rule, up to very long sequences."""
    rows = []
    for length in lengths:
        work = _forward(Ours("window"), Shape(length, num_hashes))
        seconds = time_by_turns({"ours": work}, num_repeats=num_repeats, most_seconds=120)["ours"]
        rows.append({"length": length, "forward_seconds": seconds, "per_token": seconds / length})
        say(f"{length:>9,} tokens: {1e6 * seconds / length:.2f} microseconds per token")
    return rows


def memory(*, length: int, rounds: Sequence[int], say: Say) -> list[Row]:
    """Peak extra memory of forward + backward, as a multiple of inputs and output."""
    rows = []
    for num_hashes in rounds:
        shape = Shape(length, num_hashes)
        extra = peak_extra_bytes(_forward_backward(Ours("window"), shape))
        if extra is None:
            say("Peak memory is measured on Linux only.")
            return []
        size = 3 * 4 * shape.num_heads * length * shape.head_size
        rows.append({"num_hashes": num_hashes, "peak_extra_bytes": extra, "ratio": extra / size})
        say(f"{num_hashes:>3} rounds: {extra / size:.2f} times inputs and output")
    return rows


def _forward(contender: Contender, shape: Shape) -> Work:
    attention = contender.make(shape)
    query_key, value = shape.inputs()

    def work() -> None:
        with torch.no_grad():
            attention(query_key, value)

    return work


def _forward_backward(contender: Contender, shape: Shape) -> Work:
    return forward_backward(contender.make(shape), *shape.inputs())


def forward_backward(attention: Attention, query_key: Tensor, value: Tensor) -> Work:
    """Attention and its gradients on these inputs, whose ``grad`` it sets anew each time."""
    query_key.requires_grad_()
    value.requires_grad_()

    def work() -> None:
        query_key.grad = value.grad = None
        out = attention(query_key, value)
        out.backward(torch.ones_like(out))

    return work
