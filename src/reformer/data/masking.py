"""Masked language modelling: spans of a text are hidden, and the model says what they were.

SpanBERT's choice of spans (Joshi et al. 2020, section 3.1): lengths from a geometric distribution
with p = 0.2, cut at 10, until 15 % of the tokens are hidden; and BERT's of what stands there:
in 80 % of the spans a mask, in 10 % other tokens of the text, in 10 % the tokens themselves.
"""

import numpy as np
import torch

from reformer.data.rows import Row
from reformer.data.sources import Batch, TextSource
from reformer.data.store import TokenStore
from reformer.ops.randomness import derive_seed
from reformer.ops.sliced import IGNORED_LABEL

MASK = 0
"""The id that stands for hidden tokens; as a byte, one that texts do not hold."""
_SHARE = 0.15
_MEAN_RATE = 0.2
_LONGEST_SPAN = 10
_SPANS = 1
"""Names the draws of spans."""


def mask_spans(tokens: Row, seed: int) -> tuple[Row, Row]:
    """The tokens [L] with spans hidden, and labels [L]: the hidden tokens, -100 elsewhere."""
    draw = np.random.default_rng(seed)
    hidden, labels = tokens.copy(), np.full_like(tokens, IGNORED_LABEL)
    wanted, done = max(1, round(_SHARE * len(tokens))), 0
    while done < wanted:
        length = min(int(draw.geometric(_MEAN_RATE)), _LONGEST_SPAN, wanted - done)
        start = int(draw.integers(len(tokens) - length + 1))
        span = slice(start, start + length)
        if (labels[span] != IGNORED_LABEL).any():
            # Spans that meet are one; the rest of it is found anew.
            length = 1
            span = slice(start, start + 1)
            if labels[start] != IGNORED_LABEL:
                continue
        labels[span] = tokens[span]
        what = draw.random()
        if what < 0.8:
            hidden[span] = MASK
        elif what < 0.9:
            hidden[span] = draw.choice(tokens, length)
        done += length
    return hidden, labels


class MaskedSource:
    """Windows of a token store with hidden spans; sequence n is a function of (seed, n)."""

    def __init__(self, store: TokenStore, length: int, seed: int) -> None:
        self._windows = TextSource(store, length, seed)
        self.seed, self.unit = seed, self._windows.unit

    def batch(self, first: int, count: int) -> Batch:
        windows = self._windows.batch(first, count)["input_ids"].numpy()
        pairs = [
            mask_spans(window, derive_seed(self.seed, _SPANS, first + row))
            for row, window in enumerate(windows)
        ]
        return {
            "input_ids": torch.from_numpy(np.stack([hidden for hidden, _ in pairs])),
            "labels": torch.from_numpy(np.stack([labels for _, labels in pairs])),
        }
