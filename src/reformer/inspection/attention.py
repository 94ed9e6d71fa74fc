"""Measurements of the LSH layers of a model on one sequence, beside exact attention.

For a sample of queries the whole row of exact attention is computed from the layer's own
query-keys, ``p_ij = softmax_j(q_i . k_j)``, and summed over the keys that hashing shows: the
share of the attention mass that LSH finds.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from reformer.inspection.visible import visible_by_round
from reformer.models.language import ReformerForCausalLM
from reformer.nn.attention import LSHSelfAttention
from reformer.nn.record import LayerRecord
from reformer.ops.attention import Visibility, normalize_key
from reformer.ops.lsh_attention import hash_buckets
from reformer.ops.randomness import generator

NUM_PICTURE_BINS = 128


@dataclass(frozen=True)
class HeadReport:
    """One head of one LSH layer."""

    layer: int
    head: int
    num_buckets: int
    bucket_sizes: list[int]
    """Tokens in each bucket of the first round, the largest first."""
    effective_buckets: float
    """exp of the entropy of the bucket sizes, mean over rounds: N when all are equally full."""
    covered: float
    """Share of the exact attention mass that the model's own hashing shows, mean over queries."""
    covered_by_rounds: list[float]
    """The same with 1, 2, … up to twice the layer's rounds, hashed anew."""
    gain_of_one_more_round: float
    """What a round more than the layer's own adds to that."""
    keys_seen: float
    """Keys that a query sees, mean."""
    mass_by_distance: list[float]
    """Exact attention mass at distances 1, 2-3, 4-7, …"""
    covered_by_distance: list[float]
    """The part of it that hashing shows."""


@dataclass(frozen=True)
class Inspection:
    """Reports of all heads, and a picture per head: attention [query, key bin]."""

    reports: list[HeadReport]
    pictures: list[Tensor]
    queries: Tensor
    """int64 [Q]: the positions sampled, in order."""
    length: int


def inspect_attention(
    model: ReformerForCausalLM, input_ids: Tensor, *, num_queries: int = 256
) -> Inspection:
    """Run the model on input_ids [1, L] in evaluation mode and measure its LSH layers."""
    length = input_ids.shape[1]
    count = min(num_queries, length)
    queries = torch.randperm(length, generator=generator(length))[:count].sort().values
    reports: list[HeadReport] = []
    pictures: list[Tensor] = []
    model.eval()
    with torch.no_grad(), _captured(model) as captured:
        model.reformer(input_ids)
        for index, attention, x, record in captured:
            for head in range(attention.num_heads):
                view = _HeadView(attention, head, x, record)
                reports.append(_report(index, head, view, queries))
                pictures.append(_picture(view, queries))
    return Inspection(reports, pictures, queries, length)


_Capture = tuple[int, LSHSelfAttention, Tensor, LayerRecord]


@contextmanager
def _captured(model: ReformerForCausalLM) -> Iterator[list[_Capture]]:
    """A list that fills with each LSH layer's input and record as the model runs."""
    captured: list[_Capture] = []

    def keep(index: int, module: LSHSelfAttention, inputs: tuple[Tensor, LayerRecord]) -> None:
        captured.append((index, module, *inputs))

    handles = [
        module.register_forward_hook(lambda m, args, _out, index=index: keep(index, m, args))
        for index, block in enumerate(model.reformer.blocks)
        if isinstance(module := block.attention, LSHSelfAttention)
    ]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


class _HeadView:
    """One head's vectors and buckets, and exact attention from them."""

    def __init__(
        self, attention: LSHSelfAttention, head: int, x: Tensor, record: LayerRecord
    ) -> None:
        assert record.buckets is not None, "the layer has run"
        layer = attention.layer
        self.query_keys = attention.split(attention.query_key(x))
        self.query_key = self.query_keys[0, head].float()
        self.key = normalize_key(self.query_key)
        self.buckets = record.buckets[0, head]
        self.head, self.hash_seed, self.draw = head, record.hash_seed, attention.draw
        self.num_hashes, self.num_buckets = layer.num_hashes, attention.num_buckets
        self.scale = layer.score_scale
        self.visibility = Visibility(
            layer.rule, layer.window_length, attention.causal, False,
            layer.chunks_before, layer.chunks_after,
        )  # fmt: skip

    def scores(self, queries: Tensor) -> Tensor:
        """Scores of all keys but the query's own, [Q, L]; -inf where nothing may be seen."""
        scores = self.scale * (self.query_key[queries] @ self.key.T)
        positions = torch.arange(len(self.key))
        own = positions == queries[:, None]
        hidden = own | (positions > queries[:, None]) if self.visibility.causal else own
        return scores.masked_fill(hidden, -torch.inf)

    def exact(self, queries: Tensor) -> Tensor:
        """Rows of exact attention [Q, L]; zero for a query that has no key but itself."""
        return self.scores(queries).softmax(dim=-1).nan_to_num(0.0)

    def visible(self, queries: Tensor) -> Tensor:
        """What the model's own hashing shows, bool [R, Q, L]."""
        return visible_by_round(self.buckets, self.visibility, queries)

    def visible_anew(self, num_hashes: int, queries: Tensor) -> Tensor:
        """What other rotations show, bool [num_hashes, Q, L]."""
        buckets = hash_buckets(
            self.query_keys, num_hashes=num_hashes, num_buckets=self.num_buckets,
            seed=self.hash_seed + 1, draw=self.draw,
        )  # fmt: skip
        return visible_by_round(buckets[0, self.head], self.visibility, queries)


def _report(layer: int, head: int, view: _HeadView, queries: Tensor) -> HeadReport:
    exact = view.exact(queries)
    with_keys = exact.sum(dim=1) > 0
    seen = view.visible(queries).any(dim=0)
    many = view.visible_anew(2 * view.num_hashes, queries)
    by_rounds = [
        _mean(_mass(exact, many[:count].any(dim=0))[with_keys])
        for count in range(1, 2 * view.num_hashes + 1)
    ]
    total = math.prod(n) if isinstance(n := view.num_buckets, tuple) else n
    sizes = torch.stack([torch.bincount(row.long(), minlength=total) for row in view.buckets])
    shares = sizes.double() / sizes.sum(dim=1, keepdim=True)
    return HeadReport(
        layer=layer,
        head=head,
        num_buckets=total,
        bucket_sizes=sizes[0].sort(descending=True).values.tolist(),
        effective_buckets=_mean(torch.special.entr(shares).sum(dim=1).exp()),
        covered=_mean(_mass(exact, seen)[with_keys]),
        covered_by_rounds=by_rounds,
        gain_of_one_more_round=by_rounds[view.num_hashes] - by_rounds[view.num_hashes - 1],
        keys_seen=_mean(seen.sum(dim=1).double()),
        mass_by_distance=_by_distance(exact, queries),
        covered_by_distance=_by_distance(exact * seen, queries),
    )


def _mass(exact: Tensor, seen: Tensor) -> Tensor:
    return (exact * seen).sum(dim=1)


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else 0.0


def _by_distance(weights: Tensor, queries: Tensor) -> list[float]:
    """Mean weight at distances 1, 2-3, 4-7, … tokens; weights [Q, L]."""
    length = weights.shape[1]
    distance = (queries[:, None] - torch.arange(length)).abs().clamp(min=1)
    octave = distance.double().log2().floor().long()
    totals = torch.zeros(max(1, (length - 1).bit_length()), dtype=weights.dtype)
    totals.scatter_add_(0, octave.flatten(), weights.flatten())
    return (totals / len(queries)).tolist()


def _picture(view: _HeadView, queries: Tensor) -> Tensor:
    """Attention as the model computes it, keys summed into bins: [Q, bins]."""
    seen = view.visible(queries).any(dim=0)
    weights = view.scores(queries).masked_fill(~seen, -torch.inf).softmax(dim=-1).nan_to_num(0.0)
    length = weights.shape[1]
    bins = min(NUM_PICTURE_BINS, length)
    bin_of_key = torch.arange(length) * bins // length
    return torch.zeros(len(queries), bins).index_add_(1, bin_of_key, weights)
