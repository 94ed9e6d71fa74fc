"""The attention kernels alone, by turns: one build beside another, and one order beside another.

    python benchmarks/kernels.py --lengths 8192 131072 1048576
    python benchmarks/kernels.py OLD/reformer_avx512.so NEW/reformer_avx512.so --backward

Without a library: the one that `reformer doctor` names. Each library has a process of its own
with the same inputs, and the processes take turns; freed memory is kept, so that mapping it does
not count. A bucket has as many tokens as half a window. In a random order they come from all over
the sequence; in a sequential one they are neighbours, which shows what finding them costs.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import time
from pathlib import Path

import torch

from reformer.bench.measure import machine
from reformer.kernels.cpu.library import PATH_VARIABLE, description
from reformer.ops.attention import Visibility, attend
from reformer.ops.order import sort_tokens
from reformer.training.allocator import keep_freed_memory

WIDTH, HEADS = 64, 4
TOKENS_PER_TURN = 1 << 17
"""Short sequences come several at a time, so that a turn is long enough to be timed."""

ORDERS = {
    "random": lambda length, draws: torch.randperm(length, generator=draws),
    "sequential": lambda length, draws: torch.arange(length),
}


def buckets_of(order, length, settings):
    """Buckets [R, L] of half a window each."""
    draws = torch.Generator().manual_seed(length)
    rounds = [ORDERS[order](length, draws) for _ in range(settings.num_hashes)]
    return (torch.stack(rounds) // (settings.window // 2)).int()


def make_pass(length, order, settings):
    """One forward, or forward and backward, as a function; and its tokens times heads."""
    sequences = max(1, TOKENS_PER_TURN // (HEADS * length))
    shape = (sequences, HEADS, length, WIDTH)
    draws = torch.Generator().manual_seed(0)
    query, value, upstream = (torch.randn(shape, generator=draws) for _ in range(3))
    query.requires_grad_(settings.backward)
    value.requires_grad_(settings.backward)
    buckets = buckets_of(order, length, settings).expand(*shape[:2], -1, -1).contiguous()
    placed = sort_tokens(buckets, settings.window)
    visibility = Visibility(settings.rule, settings.window, causal=True, before=1, after=0)

    def run():
        query.grad = value.grad = None
        out, _ = attend(query, None, value, *placed, visibility)
        if settings.backward:
            out.backward(upstream)

    return run, sequences * HEADS * length


def serve(connection, settings):
    """A library's process: (length, order) in; nanoseconds per token, head and round out."""
    keep_freed_memory()
    connection.send(description())
    case = None
    with contextlib.suppress(EOFError):  # the other end is gone
        while True:
            wanted = connection.recv()
            if wanted != case:
                run, count = make_pass(*wanted, settings)
                case = wanted
                run()
            started = time.perf_counter()
            run()
            connection.send((time.perf_counter() - started) * 1e9 / count / settings.num_hashes)


def start(library, settings):
    """Starts the process of a library, or of the installed one where it is None."""
    os.environ.pop(PATH_VARIABLE, None)
    if library is not None:
        os.environ[PATH_VARIABLE] = str(library.resolve())
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, settings), daemon=True
    )
    process.start()
    found = ours.recv()
    print(found.summary, flush=True)
    if found.path is None:
        raise SystemExit("There are no kernels to measure.")
    return ours


def take_turns(connections, case, turns):
    """Medians of each, every turn in another order."""
    times = [[] for _ in connections]
    for turn in range(turns):
        pairs = list(zip(connections, times, strict=True))
        for connection, own in pairs if turn % 2 else pairs[::-1]:
            connection.send(case)
            own.append(connection.recv())
    return [statistics.median(own) for own in times]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("libraries", nargs="*", type=Path)
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024, 8192, 131072])
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--num-hashes", type=int, default=8)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--rule", choices=["window", "chunk"], default="window")
    parser.add_argument("--backward", action="store_true", help="forward and backward")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, help="a JSON file")
    settings = parser.parse_args()
    if settings.window < 2 or min(settings.lengths) < 1:
        parser.error("a window has at least 2 places, a sequence at least 1")
    if settings.turns < 1 or settings.num_hashes < 1:
        parser.error("there is at least one turn, and one round of hashing")
    connections = [start(library, settings) for library in settings.libraries or [None]]
    rows = []
    for length in settings.lengths:
        for order in settings.orders:
            found = take_turns(connections, (length, order), settings.turns)
            rows.append({"length": length, "order": order, "nanoseconds": found})
            ratios = "".join(f"  {each / found[0]:.3f}" for each in found[1:])
            each = "  ".join(f"{one:7.1f}" for one in found)
            print(f"{length:>9,} tokens, {order:<10} {each} ns per token, head and round{ratios}")
    if settings.out is not None:
        settings.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
