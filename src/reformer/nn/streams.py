"""The two residual streams, as fixed-point integers or as plain floats.

Fixed point makes the residual sum exact: branch outputs are rounded to a grid before they
are added, so subtracting them again gives the earlier stream bit for bit, at any depth
(float streams drift: (a + b) - b is not a). The grid is 2^-20 with a range of +-2048 in
int32; float64 models use 2^-44 in int64. A value that leaves the range, or is not finite,
raises StreamRangeError instead of wrapping round.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

_SLICE_ELEMENTS = 1 << 22
"""Elements rounded to the grid at a time: 16 MB in float32."""


class StreamRangeError(ArithmeticError):
    """A stream left the range of the fixed-point grid, or a layer's output is not finite."""


class Streams(Protocol):
    """How a stream is held between layers."""

    def open(self, x: Tensor) -> Tensor:
        """A new stream that starts as the float tensor x."""
        ...

    def read(self, stream: Tensor) -> Tensor:
        """The stream's float value."""
        ...

    def add(self, stream: Tensor, branch: Tensor, where: str) -> None:
        """Add a branch's output to the stream, in place; ``where`` names it in errors."""
        ...

    def subtract(self, stream: Tensor, branch: Tensor) -> None:
        """Undo ``add``, in place."""
        ...


class FloatStreams:
    """Streams in the model's own float type: rebuilt only to rounding."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def open(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, copy=True)

    def read(self, stream: Tensor) -> Tensor:
        return stream.clone()

    def add(self, stream: Tensor, branch: Tensor, where: str) -> None:
        stream += branch

    def subtract(self, stream: Tensor, branch: Tensor) -> None:
        stream -= branch


class ExactStreams:
    """Streams on a fixed-point grid: rebuilt bit for bit."""

    def __init__(self, dtype: torch.dtype) -> None:
        wide = dtype == torch.float64
        self.model_dtype = dtype
        self.dtype = torch.float64 if wide else torch.float32
        self.integer = torch.int64 if wide else torch.int32
        self.unit = 2.0**44 if wide else 2.0**20
        self.limit = torch.iinfo(self.integer).max / self.unit

    def open(self, x: Tensor) -> Tensor:
        self._check(x, "the embedding")
        return self._to_grid(x.contiguous())

    def read(self, stream: Tensor) -> Tensor:
        return stream.to(self.dtype).mul_(1.0 / self.unit).to(self.model_dtype)

    def add(self, stream: Tensor, branch: Tensor, where: str) -> None:
        self._check(branch, where)
        for part, added in _slices(stream, branch):
            part += self._to_grid(added)
        low, high = torch.aminmax(stream)
        # Branch and stream are each within the limit; half of it leaves no way to wrap unseen.
        if max(-int(low), int(high)) > torch.iinfo(self.integer).max // 2:
            self._fail(where, max(-int(low), int(high)) / self.unit)

    def subtract(self, stream: Tensor, branch: Tensor) -> None:
        for part, added in _slices(stream, branch):
            part -= self._to_grid(added)

    def _to_grid(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).mul(self.unit).round_().to(self.integer)

    def _check(self, x: Tensor, where: str) -> None:
        if x.numel() == 0:
            return
        low, high = torch.aminmax(x.detach())
        largest = max(-float(low), float(high))
        if not largest < self.limit / 2:
            self._fail(where, largest)

    def _fail(self, where: str, value: float) -> None:
        raise StreamRangeError(
            f"the residual stream after {where} reaches {value:.4g}, outside the fixed-point "
            f"range of +-{self.limit / 2:.0f}: lower the learning rate, check the weights for "
            "NaN, or set streams='float'"
        )


def _slices(stream: Tensor, branch: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both, flat, a few megabytes at a time: rounding needs room for that much only."""
    pieces = (x.split(_SLICE_ELEMENTS) for x in (stream.view(-1), branch.reshape(-1)))
    yield from zip(*pieces, strict=True)
