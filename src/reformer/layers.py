"""What one layer's attention is: LSH, local or full, each with its own settings.

Every value is checked when the object is made, as in config.py.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from reformer.checks import require, require_choice, require_count, require_positive, require_rate

Rule = Literal["window", "chunk"]
Values = Literal["own", "next"]


@dataclass(frozen=True)
class LSH:
    """Attention among tokens that share a hash bucket; queries and keys are one projection."""

    num_hashes: int = 4
    """Rounds of hashing, R. More rounds find more of the attention mass, at linear cost."""
    window_length: int = 64
    """Window rule: each query sees its last W - 1 bucket mates. Chunk rule: the chunk length."""
    num_buckets: int | tuple[int, ...] | None = None
    """Buckets per round, N; a tuple gives its even factors. None: about 2 * max_length / W."""
    rule: Rule = "window"
    """Which pairs a round shows: "window" (exact decoding), or "chunk" (paper, Trax, HF)."""
    chunks_before: int = 1
    """Chunk rule only: how many earlier chunks a query sees."""
    chunks_after: int = 0
    """Chunk rule only: how many later chunks a query sees."""
    score_scale: float = 1.0
    """Factor on the scores q . k with unit-length keys; 1 as in the paper's own code."""
    dropout: float = 0.0
    """Share of attended pairs that are dropped in training."""
    values: Values = "own"
    """What a token gives to those that attend to it: its "own" value, as in the paper, or that of
    the token after it ("next", causal models with the window rule): who finds where the same was
    seen before then reads what came after it. docs/decisions/0014-values-of-the-next-token.md"""

    def __post_init__(self) -> None:
        require_count("num_hashes", self.num_hashes)
        _require_attention(self)
        require_choice("values", self.values, get_args(Values))
        fix = 'with rule="chunk" a token can see later ones of its chunk: use values="own"'
        require(self.values == "own" or self.rule == "window", "values", self.values, fix)
        factors = self.num_buckets
        if factors is not None:
            for factor in factors if isinstance(factors, tuple) else (factors,):
                valid = isinstance(factor, int) and not isinstance(factor, bool)
                valid = valid and 0 < factor < 2**31 and (factor % 2 == 0 or factor == 1)
                fix = "each factor must be even, or 1, and below 2^31"
                require(valid, "num_buckets", factors, fix)
            number = math.prod(factors) if isinstance(factors, tuple) else factors
            require(0 < number < 2**31, "num_buckets", factors, "there may be up to 2147483647")
        require_positive("score_scale", self.score_scale)


@dataclass(frozen=True)
class Local:
    """Sliding-window attention with separate queries and keys."""

    window_length: int = 128
    """Window rule: a query sees itself and W - 1 tokens before it. Chunk rule: the chunk length."""
    rule: Rule = "window"
    """"window", or "chunk" for the fixed chunks of the paper, Trax and HF."""
    chunks_before: int = 1
    """Chunk rule only: how many earlier chunks a query sees."""
    chunks_after: int = 0
    """Chunk rule only: how many later chunks a query sees."""
    rotary_base: float | None = None
    """Base of rotary position encoding (e.g. 10000); None leaves queries and keys as they are."""
    dropout: float = 0.0
    """Share of attended pairs that are dropped in training."""

    def __post_init__(self) -> None:
        _require_attention(self)
        _require_rotary(self.rotary_base)


@dataclass(frozen=True)
class Full:
    """Exact attention over the whole sequence: O(L^2) time, for comparison and short inputs."""

    rotary_base: float | None = None
    """Base of rotary position encoding (e.g. 10000); None leaves queries and keys as they are."""
    dropout: float = 0.0
    """Share of attended pairs that are dropped in training."""

    def __post_init__(self) -> None:
        require_rate("dropout", self.dropout)
        _require_rotary(self.rotary_base)


Layer = LSH | Local | Full


def _require_attention(layer: LSH | Local) -> None:
    require_count("window_length", layer.window_length)
    require_choice("rule", layer.rule, ("window", "chunk"))
    require_count("chunks_before", layer.chunks_before, least=0)
    require_count("chunks_after", layer.chunks_after, least=0)
    require_rate("dropout", layer.dropout)


def _require_rotary(base: float | None) -> None:
    valid = base is None or (isinstance(base, (int, float)) and 1.0 < base <= 1e15)
    require(valid, "rotary_base", base, "it must be None or a number from 1 to 1e15, e.g. 10000")
