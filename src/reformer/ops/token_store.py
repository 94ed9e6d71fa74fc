"""Tensors that grow by one entry per token, in segments that copies share.

A sequence's cached keys and values are only ever appended to. Segments make growth cheap
(a longer context is never moved), copies cheap (they share every segment and write their own
continuation), and forgetting cheap (old segments are dropped). A token is found by a binary
search over the few segments' first tokens.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

_SMALLEST_SEGMENT = 256
_LARGEST_SEGMENT = 16384
# A full or shared last segment shorter than this is copied into its successor, so that many
# small forks and truncations do not leave many small segments.
_MERGED_BELOW = 2048


class Field(NamedTuple):
    """One tensor per token: its shape and type."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Segment:
    """Room for the tokens start … end - 1."""

    start: int
    end: int
    tensors: Mapping[str, Tensor]
    """[end - start or more, *shape] by field name."""
    shared: bool = False
    """Another store reads this segment: what it holds must not be overwritten."""


class SegmentedStore:
    """Named per-token tensors of one sequence. Tokens are numbered from 0."""

    def __init__(self, fields: Mapping[str, Field], device: torch.device) -> None:
        self.fields, self.device = dict(fields), device
        self.length = 0
        self.first = 0
        """The oldest token that is still held."""
        self.segments: list[Segment] = []
        self._addresses: dict[str, array[int]] | None = None

    def reserve(self, count: int) -> None:
        """Make room for ``count`` more tokens, whose contents are undefined until written."""
        wanted = self.length + count
        while (self.segments[-1].end if self.segments else self.first) < wanted:
            self._add_segment(wanted)

    def _add_segment(self, wanted: int) -> None:
        start = self.segments[-1].end if self.segments else self.first
        size = min(max(wanted - start, self.length, _SMALLEST_SEGMENT), _LARGEST_SEGMENT)
        merged = None
        if self.segments and start - self.segments[-1].start < _MERGED_BELOW:
            merged = self.segments.pop()
            start = merged.start
            size = max(size, 2 * (merged.end - start))
        tensors = {
            name: torch.empty((size, *field.shape), dtype=field.dtype, device=self.device)
            for name, field in self.fields.items()
        }
        if merged is not None:
            for name, tensor in tensors.items():
                count = merged.end - start
                tensor[:count] = merged.tensors[name][:count]
        self.segments.append(Segment(start, start + size, tensors))
        self._addresses = None

    def addresses(self) -> "dict[str, array[int]]":
        """For kernels: each field's data address in every segment, and each "start" token."""
        if self._addresses is None:
            lists = {
                name: [segment.tensors[name].data_ptr() for segment in self.segments]
                for name in self.fields
            }
            lists["start"] = [segment.start for segment in self.segments]
            self._addresses = {name: array("q", x) for name, x in lists.items()}
        return self._addresses

    def advance(self, count: int) -> None:
        """Count ``count`` reserved tokens, which the caller has written, as held."""
        self.length += count

    def append(self, values: Mapping[str, Tensor]) -> None:
        """Write one more entry per token of ``values`` ([n, *shape] for every field)."""
        count = next(iter(values.values())).shape[0]
        self.reserve(count)
        for segment, low, high in self._pieces(self.length, self.length + count):
            for name, value in values.items():
                piece = value[low - self.length : high - self.length]
                segment.tensors[name][low - segment.start : high - segment.start] = piece
        self.advance(count)

    def slice(self, name: str, start: int, end: int) -> Tensor:
        """The entries of tokens start … end - 1, [end - start, *shape]."""
        parts = [
            segment.tensors[name][low - segment.start : high - segment.start]
            for segment, low, high in self._pieces(start, end)
        ]
        if len(parts) == 1:
            return parts[0]
        shape, dtype = self.fields[name]
        return torch.cat(parts or [torch.empty((0, *shape), dtype=dtype, device=self.device)])

    def _pieces(self, start: int, end: int) -> list[tuple[Segment, int, int]]:
        return [
            (segment, max(start, segment.start), min(end, segment.end))
            for segment in self.segments
            if segment.start < end and segment.end > start
        ]

    def gather(self, name: str, tokens: Tensor, *places: Tensor) -> Tensor:
        """``entries[tokens, *places]`` by advanced indexing; all tokens must be held."""
        if len(self.segments) == 1:
            segment = self.segments[0]
            return segment.tensors[name][(tokens - segment.start, *places)]
        tokens, *places = torch.broadcast_tensors(tokens, *places)
        shape, dtype = self.fields[name]
        rest = shape[len(places) :]
        out = torch.empty((*tokens.shape, *rest), dtype=dtype, device=self.device)
        for segment in self.segments:
            inside = (tokens >= segment.start) & (tokens < segment.end)
            if inside.any():
                index = (tokens[inside] - segment.start, *(place[inside] for place in places))
                out[inside] = segment.tensors[name][index]
        return out

    def fork(self) -> Self:
        """An independent copy. What is held now is shared, what is appended later is not."""
        self.segments = [
            replace(segment, end=min(segment.end, self.length), shared=True)
            for segment in self.segments
            if segment.start < self.length
        ]
        self._addresses = None
        copy = type(self)(self.fields, self.device)
        copy.length, copy.first, copy.segments = self.length, self.first, list(self.segments)
        return copy

    def truncate(self, length: int) -> None:
        """Drop the tokens from number ``length`` on; a shorter store stays as it is."""
        if length >= self.length:
            return
        self.length = length
        self.segments = [segment for segment in self.segments if segment.start < length]
        self._addresses = None
        if self.segments and self.segments[-1].shared:
            self.segments[-1] = replace(self.segments[-1], end=length)

    def forget(self, before: int) -> None:
        """Let go of segments that hold only tokens earlier than number ``before``."""
        while self.segments and self.segments[0].end <= before:
            self.first = self.segments.pop(0).end
            self._addresses = None

    @property
    def num_bytes(self) -> int:
        """Bytes that the segments take, shared ones included, reserved room too."""
        return sum(t.nbytes for segment in self.segments for t in segment.tensors.values())
