"""Self-attention layers: projections around ``ops.lsh_attention``; no biases (paper section 2).

Each takes x [B, L, D] and its layer's record, and returns [B, L, D].
"""

from torch import Tensor, nn
from torch.nn import functional

from reformer.config import LSH, Full, Layer, Local, ReformerConfig
from reformer.nn.record import LayerRecord
from reformer.ops.attention import Dropout
from reformer.ops.hashing import default_num_buckets
from reformer.ops.lsh_attention import hash_buckets, local_attention, lsh_attention
from reformer.ops.positions import rotate
from reformer.ops.randomness import derive_seed


def self_attention(config: ReformerConfig, layer: Layer) -> nn.Module:
    """The module for one entry of ``config.layers``."""
    if isinstance(layer, LSH):
        return LSHSelfAttention(config, layer)
    if isinstance(layer, Local):
        return LocalSelfAttention(config, layer)
    return FullSelfAttention(config, layer)


class _Heads(nn.Module):
    """Projections into heads and back."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.num_heads, self.head_size = config.num_heads, config.head_size
        self.causal = config.causal
        inner = config.num_heads * config.head_size
        self.value = nn.Linear(config.hidden_size, inner, bias=False)
        self.output = nn.Linear(inner, config.hidden_size, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """[B, L, H * K] to [B, H, L, K]."""
        batch, length, _ = x.shape
        return x.view(batch, length, self.num_heads, self.head_size).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """[B, H, L, K] to the layer's output [B, L, D]."""
        batch, _, length, _ = x.shape
        return self.output(x.transpose(1, 2).reshape(batch, length, -1))


class LSHSelfAttention(_Heads):
    """Attention within hash buckets; one projection serves as query and key."""

    def __init__(self, config: ReformerConfig, layer: LSH) -> None:
        super().__init__(config)
        self.layer = layer
        # From max_length, not from the input: a prefix must hash as the whole does.
        self.num_buckets = layer.num_buckets or default_num_buckets(
            config.max_length, layer.window_length
        )
        inner = config.num_heads * config.head_size
        self.query_key = nn.Linear(config.hidden_size, inner, bias=False)

    def forward(self, x: Tensor, record: LayerRecord) -> Tensor:
        query_key, value = self.split(self.query_key(x)), self.split(self.value(x))
        if record.buckets is None:
            record.buckets = hash_buckets(
                query_key,
                num_hashes=self.layer.num_hashes,
                num_buckets=self.num_buckets,
                seed=record.hash_seed,
            )
        out = lsh_attention(
            query_key,
            value,
            buckets=record.buckets,
            window_length=self.layer.window_length,
            causal=self.causal,
            rule=self.layer.rule,
            segment_ids=record.segment_ids,
            chunks_before=self.layer.chunks_before,
            chunks_after=self.layer.chunks_after,
            score_scale=self.layer.score_scale,
            dropout=_dropout(self.layer.dropout, record),
        )
        return self.merge(out)


class LocalSelfAttention(_Heads):
    """Sliding-window attention with separate queries and keys."""

    def __init__(self, config: ReformerConfig, layer: Local) -> None:
        super().__init__(config)
        self.layer = layer
        inner = config.num_heads * config.head_size
        self.query = nn.Linear(config.hidden_size, inner, bias=False)
        self.key = nn.Linear(config.hidden_size, inner, bias=False)

    def forward(self, x: Tensor, record: LayerRecord) -> Tensor:
        query, key, value = (self.split(p(x)) for p in (self.query, self.key, self.value))
        if self.layer.rotary_base is not None:
            query = rotate(query, record.positions, self.layer.rotary_base)
            key = rotate(key, record.positions, self.layer.rotary_base)
        out = local_attention(
            query,
            key,
            value,
            window_length=self.layer.window_length,
            causal=self.causal,
            rule=self.layer.rule,
            segment_ids=record.segment_ids,
            chunks_before=self.layer.chunks_before,
            chunks_after=self.layer.chunks_after,
            dropout=_dropout(self.layer.dropout, record),
        )
        return self.merge(out)


class FullSelfAttention(_Heads):
    """Exact attention over the whole sequence: the same op with a window that covers it."""

    def __init__(self, config: ReformerConfig, layer: Full) -> None:
        super().__init__(config)
        self.layer = layer
        inner = config.num_heads * config.head_size
        self.query = nn.Linear(config.hidden_size, inner, bias=False)
        self.key = nn.Linear(config.hidden_size, inner, bias=False)

    def forward(self, x: Tensor, record: LayerRecord) -> Tensor:
        query, key, value = (self.split(p(x)) for p in (self.query, self.key, self.value))
        if self.layer.rotary_base is not None:
            query = rotate(query, record.positions, self.layer.rotary_base)
            key = rotate(key, record.positions, self.layer.rotary_base)
        dropout = _dropout(self.layer.dropout, record)
        if dropout.rate == 0 and record.segment_ids is None:
            out = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        else:
            out = local_attention(
                query,
                key,
                value,
                window_length=x.shape[1],
                causal=self.causal,
                segment_ids=record.segment_ids,
                dropout=dropout,
            )
        return self.merge(out)


def _dropout(rate: float, record: LayerRecord) -> Dropout:
    if rate == 0 or record.dropout_seed is None:
        return Dropout()
    return Dropout(rate, derive_seed(record.dropout_seed, 0))
