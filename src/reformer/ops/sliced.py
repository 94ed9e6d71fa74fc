"""Position-wise functions computed slice by slice (paper section 3, "chunking").

The feed-forward layers and the loss treat every position alone, so they need memory for a
slice of positions only, forward and backward, and the result does not depend on the slice.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reformer.ops.autocast import AutocastState

IGNORED_LABEL = -100


def apply_sliced(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    slice_length: int,
    parameters: list[Tensor],
    expected_gradient: Tensor | None = None,
) -> Tensor:
    """``function(x)`` for a position-wise function of x [N, D], ``slice_length`` rows at a time.

    ``parameters`` are the tensors inside ``function`` that need gradients. Inputs of one slice
    are computed directly; longer ones keep only x for the backward, which computes each slice
    again. Who knows already which gradient will come back to the result [N, …] spares that:
    each slice is then differentiated as soon as it is computed. Should another gradient come,
    slices are computed again after all.
    """
    if x.shape[0] <= slice_length:
        return function(x)
    return _Sliced.apply(function, slice_length, expected_gradient, x, *parameters)


class _Sliced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[[Tensor], Tensor],
        slice_length: int,
        expected_gradient: Tensor | None,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.function, ctx.slice_length = function, slice_length
        ctx.autocast = AutocastState.capture(x.device.type)
        ctx.save_for_backward(x, *parameters)
        ctx.expected, ctx.found = expected_gradient, None
        if expected_gradient is not None:
            ctx.found = _Gradients(x, parameters)
        out: Tensor
        for rows in _slices(x.shape[0], slice_length):
            if ctx.found is None:
                result = function(x[rows])
            else:
                result = ctx.found.add(function, x, rows, expected_gradient)
            if rows.start == 0:
                out = result.new_empty((x.shape[0], *result.shape[1:]))
            out[rows] = result
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        (grad_out,) = grads
        found, expected = ctx.found, ctx.expected
        ctx.found = ctx.expected = None
        slices = _slices(x.shape[0], ctx.slice_length)
        if found is None or not all(
            torch.equal(expected[rows].to(grad_out.dtype), grad_out[rows]) for rows in slices
        ):
            found = _Gradients(x, parameters)
            with ctx.autocast.restore():
                for rows in slices:
                    found.add(ctx.function, x, rows, grad_out)
        return (None, None, None, found.of_x, *found.of_parameters())


class _Gradients:
    """What the slices' gradients come to."""

    def __init__(self, x: Tensor, parameters: Sequence[Tensor]) -> None:
        self.of_x = torch.empty_like(x)
        self._parameters = parameters
        self._wanted = [p for p in parameters if p.requires_grad]
        self._totals = [torch.zeros_like(p) for p in self._wanted]

    def add(
        self, function: Callable[[Tensor], Tensor], x: Tensor, rows: slice, grad_out: Tensor
    ) -> Tensor:
        """Compute and differentiate a slice; returns its result."""
        with torch.enable_grad():
            leaf = x[rows].detach().requires_grad_()
            out = function(leaf)
        upstream = grad_out[rows].to(out.dtype)
        self.of_x[rows], *more = torch.autograd.grad(out, [leaf, *self._wanted], upstream)
        for total, grad in zip(self._totals, more, strict=True):
            total += grad
        return out.detach()

    def of_parameters(self) -> list[Tensor | None]:
        """One for each parameter; None for those that need none."""
        totals = iter(self._totals)
        return [next(totals) if p.requires_grad else None for p in self._parameters]


def _slices(length: int, slice_length: int) -> list[slice]:
    return [slice(start, start + slice_length) for start in range(0, length, slice_length)]


def chunked_cross_entropy(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    labels: Tensor,
    slice_length: int,
    parameters: list[Tensor],
) -> Tensor:
    """Mean cross-entropy in nats of ``head(hidden)`` [N, V], which never exists as a whole.

    hidden: [N, D]; labels: int64 [N], where -100 marks rows that do not count; parameters: the
    tensors inside ``head`` that need gradients. The gradient is made slice by slice together
    with the loss. With no label that counts the loss is 0. Accumulates in float64.
    """
    return _ChunkedCrossEntropy.apply(head, labels, slice_length, hidden, *parameters)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        head: Callable[[Tensor], Tensor],
        labels: Tensor,
        slice_length: int,
        hidden: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        count = (labels != IGNORED_LABEL).sum().clamp(min=1)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        needed = list(ctx.needs_input_grad[3:])
        grads = [
            torch.zeros_like(x) if n else None
            for x, n in zip((hidden, *parameters), needed, strict=True)
        ]
        for rows in _slices(hidden.shape[0], slice_length):
            with torch.set_grad_enabled(any(needed)):
                leaf = hidden[rows].detach().requires_grad_(needed[0])
                loss = _summed_loss(head(leaf), labels[rows]) / count
            total += loss.detach()
            if any(needed):
                wanted = [x for x, n in zip((leaf, *parameters), needed, strict=True) if n]
                parts = iter(torch.autograd.grad(loss, wanted))
                if grads[0] is not None:
                    grads[0][rows] = next(parts)
                for grad in grads[1:]:
                    if grad is not None:
                        grad += next(parts)
        ctx.grads = grads
        return total.to(torch.float64 if hidden.dtype == torch.float64 else torch.float32)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("this loss was differentiated before; compute it again")
        grads, ctx.grads = ctx.grads, None
        (scale,) = upstream
        return (None, None, None, *(g.mul_(scale) if g is not None else None for g in grads))


def _summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(wide, labels, ignore_index=IGNORED_LABEL, reduction="sum")
