"""Reading tokens into a cache: the model's logits for what comes next."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from reformer.models.pretrained import PretrainedReformer
from reformer.nn.cache import DecodeCache
from reformer.ops.decode import packed_rows


def new_cache(
    model: PretrainedReformer, num_rows: int = 1, *, undo_length: int = 4096
) -> DecodeCache:
    """An empty cache for this model: ``num_rows`` sequences of no tokens yet."""
    weight = model.reformer.norm.weight
    return DecodeCache(
        model.config, num_rows, undo_length=undo_length, dtype=weight.dtype, device=weight.device
    )


def extend(
    model: PretrainedReformer, input_ids: Sequence[Sequence[int]], cache: DecodeCache
) -> Tensor:
    """Append tokens to the cache's rows; logits [B, V] after the last token of each.

    input_ids: for each row its new token ids, at least one. Long inputs are read in slices of
    ``config.slice_length`` tokens, so memory beyond the cache stays bounded. The model is used
    as in evaluation: no dropout.
    """
    if not all(len(ids) for ids in input_ids):
        raise ValueError("input_ids has an empty row: give every row at least one token")
    ends: dict[int, Tensor] = {}
    for portion in _portions(input_ids, model.config.slice_length):
        hidden = model.reformer.append(portion, cache)
        for row, rows in enumerate(packed_rows([len(ids) for ids in portion])):
            if rows.stop > rows.start:
                ends[row] = hidden[rows.stop - 1]
    return _logits(model, torch.stack([ends[row] for row in range(len(input_ids))]))


def extend_all(
    model: PretrainedReformer, input_ids: Sequence[Sequence[int]], cache: DecodeCache
) -> list[Tensor]:
    """As ``extend``, with the logits after every new token: [n, V] for each row."""
    nothing = torch.empty((0, model.config.vocab_size), dtype=cache.dtype, device=cache.device)
    parts = [[nothing] for _ in input_ids]
    for portion in _portions(input_ids, model.config.slice_length):
        logits = _logits(model, model.reformer.append(portion, cache))
        for row, rows in enumerate(packed_rows([len(ids) for ids in portion])):
            parts[row].append(logits[rows])
    return [torch.cat(row) for row in parts]


@torch.no_grad()
def _logits(model: PretrainedReformer, hidden: Tensor) -> Tensor:
    logits: Tensor = model.head(model.reformer.norm(hidden))
    return logits


def _portions(
    input_ids: Sequence[Sequence[int]], slice_length: int
) -> Iterator[list[Sequence[int]]]:
    """The rows' tokens in portions of at most slice_length in all, row after row."""
    starts = [0] * len(input_ids)
    while any(start < len(ids) for start, ids in zip(starts, input_ids, strict=True)):
        room = slice_length
        portion = []
        for row, ids in enumerate(input_ids):
            part = ids[starts[row] : starts[row] + room]
            portion.append(part)
            starts[row] += len(part)
            room -= len(part)
        yield portion


def unpadded(input_ids: Tensor, attention_mask: Tensor) -> list[list[int]]:
    """The rows of a padded batch [B, L] without their padding, where the mask is 0."""
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask is {list(attention_mask.shape)}: it must match input_ids "
            f"{list(input_ids.shape)}"
        )
    pairs = zip(input_ids, attention_mask.bool(), strict=True)
    return [ids[held].tolist() for ids, held in pairs]
