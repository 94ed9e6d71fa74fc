"""Token sequences of different lengths: as one batch, and in an order that changes by epoch."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reformer.data.tokenizer import Tokenizer
from reformer.ops.randomness import generator

PADDING = -1
"""The segment of positions behind the end of a shorter row."""

Row = npt.NDArray[np.int64]


def encode_text(text: str, tokenizer: Tokenizer) -> Row:
    """The text's token ids, int64 [L]."""
    blocks = list(tokenizer.encode([text.encode("utf-8", errors="replace")]))
    return np.concatenate([np.zeros(0, np.int64), *blocks]).astype(np.int64)


def stack_rows(rows: Sequence[npt.NDArray[Any]], filling: int = 0) -> Tensor:
    """Rows [L_b] as one tensor [B, longest], filled up at their ends."""
    longest = max(len(row) for row in rows)
    stacked = np.full((len(rows), longest), filling, rows[0].dtype)
    for place, row in enumerate(rows):
        stacked[place, : len(row)] = row
    return torch.from_numpy(stacked)


def pad_batch(rows: Sequence[Row]) -> dict[str, Tensor]:
    """input_ids int64 [B, L], and segment_ids [B, L] where the rows' lengths differ."""
    batch = {"input_ids": stack_rows(rows)}
    if len({len(row) for row in rows}) > 1:
        batch["segment_ids"] = stack_rows([np.zeros(len(row), np.int64) for row in rows], PADDING)
    return batch


def in_batches(rows: Iterable[Any], most_tokens: int) -> Iterator[list[Any]]:
    """Neighbouring rows, whose ``len`` counts tokens, in lists that pad to ``most_tokens``; one
    longer than that comes alone."""
    held: list[Any] = []
    longest = 0
    for row in rows:
        longest = max(longest, len(row))
        if held and longest * (len(held) + 1) > most_tokens:
            yield held
            held, longest = [], len(row)
        held.append(row)
    if held:
        yield held


def pick(number: int, count: int, seed: int) -> int:
    """Which of ``count`` examples sequence ``number`` shows: each once an epoch, shuffled anew."""
    epoch, place = divmod(number, count)
    return int(_shuffled(count, seed, epoch)[place])


@functools.lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=generator(seed, epoch))
