"""Texts to labels, however long: parts as long as the model's sequences, averaged."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reformer.config import Labels
from reformer.data.rows import Row, encode_text, in_batches, pad_batch
from reformer.data.tokenizer import Tokenizer
from reformer.models.classification import ReformerForSequenceClassification

_TOKENS_PER_PASS = 16384


class _Part(NamedTuple):
    row: Row
    text: int

    def __len__(self) -> int:
        return len(self.row)


@torch.no_grad()
def label_logits(
    model: ReformerForSequenceClassification,
    rows: Sequence[Row],
    pause: Callable[[], None] = lambda: None,
) -> Tensor:
    """Logits [N, num_labels] of token rows, in evaluation mode: means over the rows' parts.

    rows: each with at least one token. pause: called between forward passes.
    """
    length, device = model.config.max_length, next(model.parameters()).device
    parts = [
        _Part(row[start : start + length], number)
        for number, row in enumerate(rows)
        for start in range(0, len(row), length)
    ]
    # Neighbours of similar lengths need little padding.
    parts.sort(key=len)
    labels = model.config.labels or Labels()
    totals = torch.zeros(len(rows), labels.num_labels)
    for batch in in_batches(parts, _TOKENS_PER_PASS):
        pause()
        tensors = pad_batch([part.row for part in batch])
        logits = model(**{name: tensor.to(device) for name, tensor in tensors.items()}).logits
        shares = [len(part) / len(rows[part.text]) for part in batch]
        weighted = logits.float().cpu() * torch.tensor(shares)[:, None]
        totals.index_add_(0, torch.tensor([part.text for part in batch]), weighted)
    return totals


def classify(
    model: ReformerForSequenceClassification, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[dict[str, float]]:
    """For each text, which is not empty, the probability of every class, likeliest first; of a
    regression, its numbers. In evaluation mode.

    Several labels per text have independent probabilities; classes have ones that sum to 1.
    """
    labels = model.config.labels or Labels()
    logits = label_logits(model, [encode_text(text, tokenizer) for text in texts])
    if labels.problem == "regression":
        return [{f"value_{i}": x for i, x in enumerate(row)} for row in logits.tolist()]
    single = labels.problem == "single_label"
    chances = logits.softmax(-1) if single else logits.sigmoid()
    names = labels.names or tuple(str(number) for number in range(labels.num_labels))
    return [
        dict(sorted(zip(names, row, strict=True), key=lambda item: -item[1]))
        for row in chances.tolist()
    ]
