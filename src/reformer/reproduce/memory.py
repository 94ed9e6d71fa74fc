"""The paper's table 3 as a measurement: memory by depth and by length.

Peak resident memory of one training step (forward and backward), less the gradients of the
weights: with reversible layers it should not depend on the depth, and grow in proportion to the
length. Stored activations stand beside it. The C library is told to return what is freed at
once, as it does by itself for tensors above 32 MB; left alone it keeps freed pieces of smaller
ones, more of them the more layers there are, which saves time and says nothing about the need.
"""

import ctypes
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reformer.bench.measure import peak_extra_bytes
from reformer.config import ConfigError, ReformerConfig, Streams
from reformer.models.language import ReformerForCausalLM
from reformer.reproduce.findings import Check, Findings, Row, Say, Size, markdown_table
from reformer.reproduce.journal import Journal
from reformer.reproduce.variants import VARIANTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 20
"""Bytes from which the C library maps an allocation of its own, and unmaps it when freed."""
_STREAMS: tuple[Streams, ...] = ("exact", "stored")


def measure(size: Size, folder: Path, say: Say) -> Findings:
    """Vary the depth at one length, and the length at one depth."""
    full = size == "full"
    depths, length = ((4, 8, 16, 32), 16384) if full else ((4, 8, 16), 4096)
    lengths = (8192, 16384, 32768, 65536) if full else (4096, 8192, 16384)
    cases = [(streams, depth, length) for depth in depths for streams in _STREAMS]
    cases += [("exact", 4, longer) for longer in lengths if longer != length]
    journal = Journal(folder / f"memory-{size}.jsonl")
    for streams, depth, extent in cases:
        key = {"streams": streams, "depth": depth, "length": extent}
        if journal.find(key) is None:
            journal.add(key | {"peak_bytes": _peak(streams, depth, extent)})
            say(f"{streams} streams, {depth} layers, {extent:,} tokens: {_megabytes(journal)} MB")
    return _judge(journal.rows, length)


def _megabytes(journal: Journal) -> int:
    return round(journal.rows[-1]["peak_bytes"] / 1e6)


def _config(streams: Streams, depth: int, length: int) -> ReformerConfig:
    config = VARIANTS["lsh"](length)
    layers = config.layers * (depth // len(config.layers))
    return dataclasses.replace(config, layers=layers, streams=streams, slice_length=2048)


def _peak(streams: Streams, depth: int, length: int) -> int:
    config = _config(streams, depth, length)
    model = ReformerForCausalLM(config)
    rng = torch.Generator().manual_seed(0)
    input_ids = torch.randint(config.vocab_size, (1, length), generator=rng)

    def step() -> None:
        model(input_ids, labels=input_ids).loss.backward()

    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
    step()  # libraries and threads take their memory once
    model.zero_grad(set_to_none=True)
    peak = peak_extra_bytes(step)
    if peak is None:
        raise ConfigError("memory is measured through Linux' /proc only: there is none here")
    return peak - 4 * sum(parameter.numel() for parameter in model.parameters())


def _judge(rows: list[Row], length: int) -> Findings:
    def column(**key: object) -> list[Row]:
        return [row for row in rows if all(row[name] == value for name, value in key.items())]

    by_depth = column(streams="exact", length=length)
    by_length = sorted(column(streams="exact", depth=4), key=lambda row: row["length"])
    shallow, deep = by_depth[0], by_depth[-1]
    stored = column(streams="stored", depth=deep["depth"])[0]
    growth = deep["peak_bytes"] / shallow["peak_bytes"]
    per_token = [row["peak_bytes"] / row["length"] for row in by_length]
    spread = max(per_token) / min(per_token)
    saved = stored["peak_bytes"] / deep["peak_bytes"]
    checks = [
        Check(
            f"{deep['depth']} layers need at most 10 % more than {shallow['depth']}",
            f"{growth - 1:+.1%}",
            growth <= 1.1,
        ),
        Check(
            "memory per token is the same at every length within 20 %",
            f"{min(per_token) / 1e3:.1f} to {max(per_token) / 1e3:.1f} kB",
            spread <= 1.2,
        ),
        Check(
            f"stored activations need more at {deep['depth']} layers",
            f"{saved:.1f} times",
            saved > 1,
        ),
    ]
    lines = [
        [
            "stored" if row["streams"] == "stored" else "reversible",
            str(row["depth"]),
            f"{row['length']:,}",
            f"{row['peak_bytes'] / 1e6:.0f}",
        ]
        for row in rows
    ]
    table = markdown_table(["activations", "layers", "tokens", "MB"], lines)
    title = "Memory of a training step by depth and length (table 3)"
    return Findings(title, rows, table, checks, lambda axes: _draw(rows, length, axes))


def _draw(rows: list[Row], length: int, axes: "Axes") -> None:
    for streams, label in (("exact", "reversible"), ("stored", "stored activations")):
        own = [row for row in rows if row["streams"] == streams and row["length"] == length]
        depths = [row["depth"] for row in own]
        axes.plot(depths, [row["peak_bytes"] / 1e6 for row in own], "o-", label=label)
    axes.set(xlabel=f"layers, at {length:,} tokens", ylabel="MB", ylim=(0, None))
