"""Hugging Face's own Reformer, faster where it stands: same weights, same results.

The attention of each layer is computed by the fused op, everything else stays theirs. What the
op does not do falls back to their code: steps of their cache, and returned attention weights.

Their layers make dropout repeatable by seeding torch's global generator before each forward
pass and again before its recomputation. The seeds here are drawn from that generator at the
same point both times, so hashing and dropout repeat with it.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.models.reformer import modeling_reformer as theirs

from reformer.interop.errors import ConversionError
from reformer.interop.huggingface.configuration import automatic_num_buckets
from reformer.interop.huggingface.fields import typed_fields
from reformer.ops.attention import Dropout, Visibility
from reformer.ops.hashing import hash_vectors, published_rotations
from reformer.ops.lsh_attention import local_attention
from reformer.ops.published import published_lsh_attention

_Model = TypeVar("_Model", bound=torch.nn.Module)


def speed_up(model: _Model) -> _Model:
    """Make a Reformer of transformers compute its attention here; returns the model itself.

    ``hash_seed`` gives the same rotations as before, without reseeding the user's generator.
    Training and evaluation, any head. Raises ``ConversionError`` when nothing in the model is a
    Reformer layer.
    """
    faster: dict[Any, Any] = {
        theirs.LSHSelfAttention: FusedLSHSelfAttention,
        theirs.LocalSelfAttention: FusedLocalSelfAttention,
    }
    layers = [module for module in model.modules() if type(module) in faster]
    done = (FusedLSHSelfAttention, FusedLocalSelfAttention)
    if not layers and not any(isinstance(module, done) for module in model.modules()):
        raise ConversionError(f"{type(model).__name__} has no Hugging Face Reformer layer in it")
    for layer in layers:
        layer.__class__ = faster[type(layer)]
    return model


def _draw_seed() -> int:
    """A seed from the global generator, which their layers set for this very purpose."""
    generator = torch.default_generator
    return int(torch.randint(2**62, (), dtype=torch.int64, generator=generator))


def _segments(mask: Tensor | None) -> Tensor | None:
    """Their mask [B, L] as segment ids: padding is -1."""
    return (
        None if mask is None or bool(mask.bool().all()) else mask.to(torch.int64).clamp(max=1) - 1
    )


def _keeps_cache(layer: Any, cache: Any) -> bool:
    return cache is not None and len(cache) > layer.layer_idx


def _dropout(layer: Any) -> Dropout:
    return Dropout(layer.dropout, _draw_seed()) if layer.training and layer.dropout else Dropout()


class FusedLSHSelfAttention(theirs.LSHSelfAttention):
    """Their LSH attention through the fused op."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_hashes: int | None = None,
        buckets: Tensor | None = None,
        past_buckets_states: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> Any:
        length = hidden_states.shape[1]
        if output_attentions or _keeps_cache(self, past_buckets_states):
            return super().forward(
                hidden_states, attention_mask, num_hashes, buckets, past_buckets_states,
                use_cache, output_attentions, **kwargs,
            )  # fmt: skip
        heads, size = self.num_attention_heads, self.attention_head_size
        query_key = self._split_hidden_size_dim(self.query_key(hidden_states), heads, size)
        value = self._split_hidden_size_dim(self.value(hidden_states), heads, size)
        hash_seed = _draw_seed() if self.hash_seed is None else self.hash_seed
        dropout = _dropout(self)
        rounds = num_hashes or self.num_hashes
        hashed = length > self.chunk_length
        if not hashed:
            buckets = query_key.new_zeros((len(query_key), heads, 1, length), dtype=torch.uint8)
        elif buckets is None:
            factors = self._factors(length)
            rotations = published_rotations(heads, size, rounds, factors, hash_seed)
            buckets = hash_vectors(query_key, rotations.to(query_key.device), factors)
        before, after = self.num_chunks_before, self.num_chunks_after
        visibility = Visibility("chunk", self.chunk_length, self.is_decoder, False, before, after)
        out = published_lsh_attention(
            query_key, value, buckets, visibility,
            segment_ids=_segments(attention_mask), dropout=dropout,
        )  # fmt: skip
        out = self._merge_hidden_size_dims(out, heads, size)
        kept = buckets if hashed else None
        if kept is not None and use_cache:
            kept = self._as_cached(kept, attention_mask)
        return theirs.LSHSelfAttentionOutput(hidden_states=out, attention_probs=(), buckets=kept)

    def _factors(self, length: int) -> tuple[int, ...]:
        """The factors of the number of buckets; theirs is fixed by the first input."""
        known: int | list[int] | None = self.config.num_buckets
        if known is None:
            factors = automatic_num_buckets(typed_fields(self.config.to_dict()), length)
            known = factors[0] if len(factors) == 1 else list(factors)
            self.config.num_buckets = known
        self.num_buckets = known
        return (known,) if isinstance(known, int) else tuple(known)

    def _as_cached(self, buckets: Tensor, mask: Tensor | None) -> Tensor:
        """Buckets as their cache holds them: numbered on from round to round, padding last."""
        number = 1
        for factor in self._factors(0):
            number *= factor
        found = buckets.to(torch.int64)
        if mask is not None and not bool(mask.bool().all()):
            found = torch.where(mask.bool()[:, None, None], found, number)
            number += 1
        rounds = torch.arange(found.shape[2], device=found.device)
        return found + rounds[:, None] * number


class FusedLocalSelfAttention(theirs.LocalSelfAttention):
    """Their local attention through the fused op."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_buckets_states: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> Any:
        if output_attentions or _keeps_cache(self, past_buckets_states):
            return super().forward(
                hidden_states, attention_mask, past_buckets_states, use_cache, output_attentions,
                **kwargs,
            )  # fmt: skip
        heads, size = self.num_attention_heads, self.attention_head_size
        query, key, value = (
            self._split_hidden_size_dim(projection(hidden_states), heads, size)
            for projection in (self.query, self.key, self.value)
        )
        whole = hidden_states.shape[1] <= self.chunk_length
        out = local_attention(
            query,
            key,
            value,
            window_length=self.chunk_length,
            rule="chunk",
            causal=self.is_decoder,
            segment_ids=_segments(attention_mask),
            chunks_before=0 if whole else self.num_chunks_before,
            chunks_after=0 if whole else self.num_chunks_after,
            dropout=_dropout(self),
        )
        out = self._merge_hidden_size_dims(out, heads, size)
        return theirs.LocalSelfAttentionOutput(hidden_states=out, attention_probs=())
