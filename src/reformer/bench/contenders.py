"""Who takes part: one attention implementation each, as a function of the same tensors.

A contender maps query_key and value [B, H, L, K] to an output of any layout. Peers are
optional; one that is not installed says so and sits out. Where a peer's attention comes with
projections, they are replaced by the identity, so that attention alone is timed.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from reformer.ops.lsh_attention import local_attention, lsh_attention

Attention = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """The size of one comparison. Causal throughout."""

    length: int
    num_hashes: int = 8
    num_heads: int = 8
    head_size: int = 64
    window_length: int = 64
    num_sequences: int = 1

    def inputs(self) -> tuple[Tensor, Tensor]:
        """query_key and value [B, H, L, K], normal, the same for every contender."""
        rng = torch.Generator().manual_seed(self.length)
        size = (self.num_sequences, self.num_heads, self.length, self.head_size)
        return torch.randn(size, generator=rng), torch.randn(size, generator=rng)


class Contender(Protocol):
    """A name, the package it needs, and how it is made for a shape."""

    @property
    def name(self) -> str:
        """As it stands in tables."""
        ...

    @property
    def package(self) -> str:
        """What must be importable."""
        ...

    def make(self, shape: Shape) -> Attention:
        """The attention function for this shape."""
        ...


def is_installed(contender: Contender) -> bool:
    """Whether the contender's package is there."""
    return importlib.util.find_spec(contender.package) is not None


@dataclass(frozen=True)
class Ours:
    """This library's LSH attention: hashing, sorting and attention together."""

    rule: str
    backend: str = "auto"
    package: str = "reformer"

    @property
    def name(self) -> str:
        suffix = "" if self.backend == "auto" else f", {self.backend}"
        return f"reformer-core ({self.rule} rule{suffix})"

    def make(self, shape: Shape) -> Attention:
        def attention(query_key: Tensor, value: Tensor) -> Tensor:
            return lsh_attention(
                query_key,
                value,
                num_hashes=shape.num_hashes,
                window_length=shape.window_length,
                rule=self.rule,
                backend=self.backend,
            )

        return attention


@dataclass(frozen=True)
class OurLocal:
    """This library's sliding-window attention, for scale."""

    name: str = "reformer-core (local)"
    package: str = "reformer"

    def make(self, shape: Shape) -> Attention:
        def attention(query_key: Tensor, value: Tensor) -> Tensor:
            return local_attention(
                query_key, query_key, value, window_length=2 * shape.window_length
            )

        return attention


@dataclass(frozen=True)
class Exact:
    """torch's own exact causal attention."""

    name: str = "torch exact attention"
    package: str = "torch"

    def make(self, shape: Shape) -> Attention:
        def attention(query_key: Tensor, value: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(
                query_key, query_key, value, is_causal=True
            )

        return attention


@dataclass(frozen=True)
class HuggingFace:
    """LSHSelfAttention of transformers, with identity projections.

    Query-key and value are then the same tensor, which changes nothing about the work.
    """

    name: str = "Hugging Face transformers"
    package: str = "transformers"

    def make(self, shape: Shape) -> Attention:
        from transformers import ReformerConfig
        from transformers.models.reformer.modeling_reformer import LSHSelfAttention

        width = shape.num_heads * shape.head_size
        config = ReformerConfig(
            attn_layers=["lsh"],
            num_attention_heads=shape.num_heads,
            attention_head_size=shape.head_size,
            hidden_size=width,
            num_hashes=shape.num_hashes,
            lsh_attn_chunk_length=shape.window_length,
            max_position_embeddings=shape.length,
            is_decoder=True,
            lsh_attention_probs_dropout_prob=0.0,
        )
        layer = LSHSelfAttention(config, layer_idx=0).train()
        layer.query_key, layer.value = nn.Identity(), nn.Identity()

        def attention(query_key: Tensor, value: Tensor) -> Tensor:
            hidden = query_key.transpose(1, 2).reshape(1, shape.length, width)
            return layer(hidden).hidden_states

        return attention


@dataclass(frozen=True)
class ReformerPytorch:
    """LSHAttention of reformer-pytorch."""

    name: str = "reformer-pytorch"
    package: str = "reformer_pytorch"

    def make(self, shape: Shape) -> Attention:
        from reformer_pytorch.reformer_pytorch import LSHAttention

        layer = LSHAttention(
            bucket_size=shape.window_length, n_hashes=shape.num_hashes, causal=True
        )

        def attention(query_key: Tensor, value: Tensor) -> Tensor:
            return layer(query_key.flatten(0, 1), value.flatten(0, 1))[0]

        return attention
