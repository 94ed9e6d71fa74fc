"""What a causal model remembers of the tokens that it has read, so that more can be appended.

A ``DecodeCache`` is explicit state outside the model: a list of sequences, each with its token
ids and one store per layer. Rows are independent: they may have any lengths, be taken out,
put together with others, copied (``fork``) and shortened (``truncate``) exactly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from reformer.config import LSH, ConfigError, Full, Layer, ReformerConfig
from reformer.nn.record import hash_seed, rotations_of
from reformer.ops.decode import LinkedTokens, linked_tokens, windowed_tokens
from reformer.ops.hashing import LayerHashing, bucket_factors, default_num_buckets
from reformer.ops.token_store import SegmentedStore


class CacheError(ValueError):
    """Something that a cache cannot do; the message says what would work."""


class ProjectedMemory(NamedTuple):
    """What one layer of a decoder reads of an encoder's output: [H, S, K] each."""

    key: Tensor
    value: Tensor


@dataclass
class CachedSequence:
    """One sequence: its token ids and what each layer keeps of them."""

    input_ids: list[int]
    layers: list[LinkedTokens | SegmentedStore]
    undo_length: int
    """How many of the last tokens can be taken back; layers with a window forget older ones."""
    memory: tuple[ProjectedMemory, ...] = ()
    """In a decoder, for each layer: made once, never changed, and shared by forks."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def fork(self) -> "CachedSequence":
        """An independent copy; what is held now is shared, not copied."""
        layers = [layer.fork() for layer in self.layers]
        return CachedSequence(list(self.input_ids), layers, self.undo_length, self.memory)

    def truncate(self, length: int) -> None:
        """Forget the tokens from number ``length`` on, as if they had never been appended."""
        if not self.can_truncate(length):
            raise CacheError(
                f"length is {length}: a sequence of {len(self)} tokens can be cut to "
                f"{max(0, len(self) - self.undo_length)} … {len(self)} tokens "
                f"(undo_length is {self.undo_length})"
            )
        for layer in self.layers:
            layer.truncate(length)
        del self.input_ids[length:]

    def can_truncate(self, length: int) -> bool:
        """Whether ``truncate`` to this length is possible."""
        return max(0, len(self) - self.undo_length) <= length <= len(self)

    @property
    def num_bytes(self) -> int:
        """Memory of the stores, in bytes; what forks share is counted for each."""
        memory = sum(part.nbytes for projected in self.memory for part in projected)
        return memory + sum(
            layer.num_bytes if isinstance(layer, SegmentedStore)
            else layer.store.num_bytes + layer.last.nbytes
            for layer in self.layers
        )  # fmt: skip


@dataclass(frozen=True)
class LayerGrowth:
    """What one layer needs to append tokens to the sequences of a batch."""

    sequences: Sequence[LinkedTokens | SegmentedStore]
    counts: Sequence[int]
    """New tokens of each sequence; they are packed end to end."""
    positions: Tensor
    """Where each new token stands in its sequence: int64 [T]."""
    layer_hashing: LayerHashing | None
    memories: Sequence[ProjectedMemory] = ()
    """In a decoder, what each sequence's tokens attend to."""

    @property
    def linked(self) -> list[LinkedTokens]:
        """The sequences of an LSH layer."""
        return [s for s in self.sequences if isinstance(s, LinkedTokens)]

    @property
    def windowed(self) -> list[SegmentedStore]:
        """The sequences of a local or full layer."""
        return [s for s in self.sequences if isinstance(s, SegmentedStore)]

    @property
    def hashing(self) -> LayerHashing:
        """The rotations of an LSH layer."""
        if self.layer_hashing is None:
            raise CacheError("this cache was made for other layers: make one from model.config")
        return self.layer_hashing


class DecodeCache:
    """A batch of sequences that a model can append tokens to.

    num_rows: sequences to begin with, all empty. undo_length: how many of its last tokens a
    sequence can take back; it costs that many more keys and values in each local layer.
    """

    def __init__(
        self,
        config: ReformerConfig,
        num_rows: int = 1,
        *,
        undo_length: int = 4096,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_decodable(config)
        if num_rows < 0:
            raise CacheError(f"num_rows is {num_rows}: it must be 0 or more")
        if undo_length < 0:
            raise CacheError(f"undo_length is {undo_length}: it must be 0 or more")
        self.config, self.undo_length = config, undo_length
        self.dtype, self.device = dtype, torch.device(device)
        self.hashing = [
            _layer_hashing(config, index, layer, self.device) if isinstance(layer, LSH) else None
            for index, layer in enumerate(config.layers)
        ]
        self.rows = [self.new_row() for _ in range(num_rows)]

    def new_row(self) -> CachedSequence:
        """An empty sequence, which is not yet in the batch."""
        layers: list[LinkedTokens | SegmentedStore] = []
        heads, width = self.config.num_heads, self.config.head_size
        for layer in self.config.layers:
            if isinstance(layer, LSH):
                buckets = num_buckets(self.config, layer)
                layers.append(
                    linked_tokens(heads, width, layer.num_hashes, buckets, self.dtype, self.device)
                )
            else:
                layers.append(windowed_tokens(heads, width, self.dtype, self.device))
        return CachedSequence([], layers, self.undo_length)

    def check_model(self, config: ReformerConfig) -> None:
        """CacheError unless the cache has room for what the layers of such a model keep."""
        for name in ("layers", "num_heads", "head_size", "max_length"):
            own, wanted = getattr(self.config, name), getattr(config, name)
            if own != wanted:
                raise CacheError(
                    f"this cache was made for a model whose {name} is {own}, not {wanted}: "
                    "make one with new_cache(model)"
                )

    def with_rows(self, rows: Iterable[CachedSequence]) -> Self:
        """A batch of these sequences, the very objects; they stay where else they are, too."""
        batch = object.__new__(type(self))
        batch.__dict__.update(self.__dict__)
        batch.rows = list(rows)
        return batch

    def fork(self, num_copies: int = 1) -> Self:
        """Each row ``num_copies`` times, row by row; copies share what is held now."""
        return self.with_rows(row.fork() for row in self.rows for _ in range(num_copies))

    def truncate(self, lengths: int | Sequence[int]) -> None:
        """Shorten every row to its length, exactly as if the rest had never been appended."""
        wanted = [lengths] * len(self.rows) if isinstance(lengths, int) else list(lengths)
        for row, length in zip(self.rows, wanted, strict=True):
            if not row.can_truncate(length):
                row.truncate(length)  # raises, before any row has changed
        for row, length in zip(self.rows, wanted, strict=True):
            row.truncate(length)

    def undo_growth(self) -> None:
        """After an append that failed half-way: every layer back to the tokens that count."""
        for row in self.rows:
            for layer in row.layers:
                layer.truncate(len(row))

    def forget(self) -> None:
        """Let go of keys and values that neither a window nor an undo can reach any more."""
        for row in self.rows:
            for layer, store in zip(self.config.layers, row.layers, strict=True):
                if isinstance(store, SegmentedStore) and not isinstance(layer, Full):
                    reach = layer.window_length + self.undo_length
                    store.forget(len(row) - reach)

    @property
    def lengths(self) -> list[int]:
        """Tokens in each row."""
        return [len(row) for row in self.rows]

    @property
    def num_bytes(self) -> int:
        """Memory of all rows, in bytes; what forks share is counted for each."""
        return sum(row.num_bytes for row in self.rows)


def num_buckets(config: ReformerConfig, layer: LSH) -> int:
    """Buckets per round of an LSH layer in a model of this config."""
    total = 1
    for factor in _factors(config, layer):
        total *= factor
    return total


def _factors(config: ReformerConfig, layer: LSH) -> tuple[int, ...]:
    wanted = layer.num_buckets or default_num_buckets(config.max_length, layer.window_length)
    return bucket_factors(wanted)


def _layer_hashing(
    config: ReformerConfig, index: int, layer: LSH, device: torch.device
) -> LayerHashing:
    factors = _factors(config, layer)
    # The same name as in ``nn.record.layer_records`` in evaluation.
    seed = hash_seed(config, index)
    draw = rotations_of(config)
    rotations = draw(config.num_heads, config.head_size, layer.num_hashes, factors, seed)
    return LayerHashing(rotations.to(device), factors)


def _check_decodable(config: ReformerConfig) -> None:
    if not config.causal:
        raise ConfigError("causal is False: only causal models can be decoded token by token")
    for index, layer in enumerate(config.layers):
        if _rule(layer) == "chunk":
            raise ConfigError(
                f"layer {index} has rule='chunk', under which later tokens change what earlier "
                "ones see: it cannot be decoded with a cache; use rule='window'"
            )


def _rule(layer: Layer) -> str:
    return "window" if isinstance(layer, Full) else layer.rule
