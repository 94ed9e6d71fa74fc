"""Self-attention layers: projections around ``ops.lsh_attention``; no biases (paper section 2).

Each takes x [B, L, D] and its layer's record, and returns [B, L, D]. ``append`` computes the
same for new tokens of cached sequences, packed end to end: [T, D] to [T, D].
"""

from torch import Tensor, nn
from torch.nn import functional

from reformer.config import LSH, Full, Layer, Local, ReformerConfig
from reformer.nn.cache import LayerGrowth
from reformer.nn.record import LayerRecord, rotations_of
from reformer.ops.attention import Dropout, Visibility
from reformer.ops.decode import append_linked, append_windowed
from reformer.ops.hashing import default_num_buckets, hash_vectors
from reformer.ops.lsh_attention import hash_buckets, local_attention, lsh_attention
from reformer.ops.positions import rotate
from reformer.ops.published import published_lsh_attention
from reformer.ops.randomness import derive_seed


def self_attention(
    config: ReformerConfig, layer: Layer
) -> "LSHSelfAttention | LocalSelfAttention | FullSelfAttention":
    """The module for one entry of ``config.layers``."""
    if isinstance(layer, LSH):
        return LSHSelfAttention(config, layer)
    if isinstance(layer, Local):
        return LocalSelfAttention(config, layer)
    return FullSelfAttention(config, layer)


class Heads(nn.Module):
    """Projections into heads and back."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.num_heads, self.head_size = config.num_heads, config.head_size
        self.causal = config.causal
        inner = config.num_heads * config.head_size
        self.value = nn.Linear(config.hidden_size, inner, bias=False)
        bias = config.attention_bias == "output"
        self.output = nn.Linear(inner, config.hidden_size, bias=bias)

    def split(self, x: Tensor) -> Tensor:
        """[B, L, H * K] to [B, H, L, K]."""
        batch, length, _ = x.shape
        return x.view(batch, length, self.num_heads, self.head_size).transpose(1, 2)

    def split_packed(self, x: Tensor) -> Tensor:
        """[T, H * K] to [T, H, K]."""
        return x.view(x.shape[0], self.num_heads, self.head_size)

    def merge(self, x: Tensor) -> Tensor:
        """[B, H, L, K] to the layer's output [B, L, D]."""
        batch, _, length, _ = x.shape
        return self.output(x.transpose(1, 2).reshape(batch, length, -1))


class LSHSelfAttention(Heads):
    """Attention within hash buckets; one projection serves as query and key."""

    def __init__(self, config: ReformerConfig, layer: LSH) -> None:
        super().__init__(config)
        self.layer = layer
        # From max_length, not from the input: a prefix must hash as the whole does.
        self.num_buckets = layer.num_buckets or default_num_buckets(
            config.max_length, layer.window_length
        )
        self.draw = rotations_of(config)
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
                draw=self.draw,
            )
        layer, dropout = self.layer, _dropout(self.layer.dropout, record)
        if layer.rule == "chunk":
            visibility = Visibility(
                "chunk", layer.window_length, self.causal, False,
                layer.chunks_before, layer.chunks_after,
            )  # fmt: skip
            out = published_lsh_attention(
                query_key,
                value,
                record.buckets,
                visibility,
                segment_ids=record.segment_ids,
                scale=layer.score_scale,
                dropout=dropout,
            )
        else:
            out = lsh_attention(
                query_key,
                value,
                buckets=record.buckets,
                window_length=layer.window_length,
                causal=self.causal,
                segment_ids=record.segment_ids,
                score_scale=layer.score_scale,
                dropout=dropout,
                values=layer.values,
            )
        return self.merge(out)

    def append(self, x: Tensor, growth: LayerGrowth) -> Tensor:
        query_key = self.split_packed(self.query_key(x))
        value = self.split_packed(self.value(x))
        heads_first = query_key.transpose(0, 1)[None]
        buckets = hash_vectors(heads_first, *growth.hashing)
        out = append_linked(
            query_key,
            value,
            buckets[0].permute(2, 0, 1),
            growth.linked,
            growth.counts,
            window_length=self.layer.window_length,
            scale=self.layer.score_scale,
            values=self.layer.values,
        )
        return self.output(out.flatten(1))


class LocalSelfAttention(Heads):
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

    def append(self, x: Tensor, growth: LayerGrowth) -> Tensor:
        return _append(self, x, growth, self.layer.window_length)


class FullSelfAttention(Heads):
    """Exact attention over the whole sequence: the same op with a window that covers it."""

    def __init__(self, config: ReformerConfig, layer: Full) -> None:
        super().__init__(config)
        self.layer = layer
        self.max_length = config.max_length
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

    def append(self, x: Tensor, growth: LayerGrowth) -> Tensor:
        return _append(self, x, growth, self.max_length)


def _append(
    module: LocalSelfAttention | FullSelfAttention, x: Tensor, growth: LayerGrowth, window: int
) -> Tensor:
    query, key, value = (
        module.split_packed(p(x)) for p in (module.query, module.key, module.value)
    )
    base = module.layer.rotary_base
    if base is not None:
        query, key = (
            rotate(part.transpose(0, 1)[None], growth.positions, base)[0].transpose(0, 1)
            for part in (query, key)
        )
    out = append_windowed(query, key, value, growth.windowed, growth.counts, window_length=window)
    return module.output(out.flatten(1))


def _dropout(rate: float, record: LayerRecord) -> Dropout:
    if rate == 0 or record.dropout_seed is None:
        return Dropout()
    return Dropout(rate, derive_seed(record.dropout_seed, 0))
