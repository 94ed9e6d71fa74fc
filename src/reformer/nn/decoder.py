"""A decoder's layers: self-attention, attention to an encoder's output, feed-forward.

Cross-attention is exact: softmax(q k^T / sqrt(K)) v with queries from the decoder's stream, and
keys and values from the encoder's output. Torch's fused attention computes it in tiles, so that
no [T, S] matrix is kept; each layer's keys and values exist while that layer is computed.
"""

from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from reformer.config import Layer, ReformerConfig
from reformer.nn.attention import Heads
from reformer.nn.cache import CacheError, LayerGrowth, ProjectedMemory
from reformer.nn.record import LayerRecord, Memory
from reformer.nn.reversible import Branch, ReversibleBlock
from reformer.ops.decode import packed_rows


class CrossAttention(Heads):
    """Attention of a decoder's tokens [B, T, D] to all tokens of an encoder's output [B, S, F]."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        inner = config.num_heads * config.head_size
        self.query = nn.Linear(config.hidden_size, inner, bias=False)
        self.key = nn.Linear(config.features_size, inner, bias=False)
        self.value = nn.Linear(config.features_size, inner, bias=False)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        query = self.split(self.query(x))
        key, value = self.split(self.key(memory.hidden)), self.split(self.value(memory.hidden))
        mask = None if memory.is_token is None else memory.is_token[:, None, None, :]
        return self.merge(functional.scaled_dot_product_attention(query, key, value, mask))

    def project(self, hidden: Tensor) -> ProjectedMemory:
        """Keys and values of one sequence's encoder output [S, F], for ``append``."""
        key, value = (self.split(p(hidden[None]))[0].contiguous() for p in (self.key, self.value))
        return ProjectedMemory(key, value)

    def append(self, x: Tensor, growth: LayerGrowth) -> Tensor:
        """The same for new tokens of cached sequences, packed end to end: [T, D] to [T, D]."""
        if len(growth.memories) != len(growth.counts):
            raise CacheError("a row has no memory: set it to what `model.reformer.remember` gives")
        query = self.split_packed(self.query(x))
        out = torch.empty_like(query)
        rows = zip(growth.memories, packed_rows(growth.counts), strict=True)
        # Neighbours that share a memory, such as the beams of one search, are one product.
        for _, group in groupby(rows, key=lambda row: id(row[0])):
            members = list(group)
            key, value = members[0][0]
            packed = slice(members[0][1].start, members[-1][1].stop)
            heads_first = query[packed].transpose(0, 1)
            attended = functional.scaled_dot_product_attention(
                heads_first[None], key[None], value[None]
            )
            out[packed] = attended[0].transpose(0, 1)
        return self.output(out.flatten(1))


class DecoderBlock(ReversibleBlock):
    """One layer of a decoder: three branches, each behind a norm."""

    branches = ("attention", "cross_attention", "feed_forward")

    def __init__(self, config: ReformerConfig, layer: Layer) -> None:
        super().__init__(config, layer)
        self.cross_attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.cross_attention = CrossAttention(config)

    def run(self, x: Tensor, branch: Branch, record: LayerRecord) -> Tensor:
        if branch != "cross_attention":
            return super().run(x, branch, record)
        if record.memory is None:
            raise ValueError("a decoder needs an encoder's output: give source_ids")
        return self.cross_attention(self.cross_attention_norm(x), record.memory)

    def append(self, x: Tensor, branch: Branch, growth: LayerGrowth) -> Tensor:
        if branch != "cross_attention":
            return super().append(x, branch, growth)
        return self.cross_attention.append(self.cross_attention_norm(x), growth)
