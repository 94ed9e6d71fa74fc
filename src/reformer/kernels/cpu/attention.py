"""The attention op and its backward on the native kernels; see ``attend`` in ops/attention.py."""

import ctypes

import torch
from torch import Tensor

from reformer.kernels.cpu.library import Strided, rows, run

_KEY_EPSILON = 1e-6
_PAGE = 4096
_LARGE = 64 << 20
"""Bytes of a result from which on its pages are mapped when it is made."""

Visibility = tuple[str, int, bool, bool, int, int, bool]
"""The fields of the op's ``Visibility``."""


class _Attention(ctypes.Structure):
    """``struct Attention`` of attention.h."""

    _fields_ = [
        *((name, Strided) for name in (
            "query", "key", "value", "out", "grad_out", "grad_query", "grad_key", "grad_value",
            "order", "code", "lse", "grad_lse",
        )),
        ("segments", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in (
            "batch", "heads", "length", "width", "rounds", "is_bfloat16", "is_wide_order",
            "is_chunk_rule", "window", "causal", "include_self", "before", "after", "gives_next",
            "dropout_seed", "dropout_threshold",
        )),
        *((name, ctypes.c_double) for name in ("keep_factor", "scale", "key_epsilon")),
        ("threads", ctypes.c_int64),
    ]  # fmt: skip


def attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    order: Tensor | None,
    code: Tensor | None,
    segment_ids: Tensor | None,
    visibility: Visibility,
    scale: float,
    dropout: tuple[float, int],
) -> tuple[Tensor, Tensor]:
    """Output [B, H, L, K] in the query's dtype and lse [B, H, L], float32."""
    out = _result_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    call = _Call(query, key, value, order, code, segment_ids, visibility, scale, dropout)
    call.set("out", out)
    call.set("lse", lse[..., None])
    call.run("reformer_attention_forward")
    return out, lse


def attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    order: Tensor | None,
    code: Tensor | None,
    segment_ids: Tensor | None,
    visibility: Visibility,
    scale: float,
    dropout: tuple[float, int],
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of query, key (None when shared) and value, each [B, H, L, K]."""
    grad_query, grad_value = _result_like(query), _result_like(query)
    grad_key = None if key is None else _result_like(query)
    call = _Call(query, key, value, order, code, segment_ids, visibility, scale, dropout)
    call.set("out", rows(out))
    call.set("lse", lse[..., None])
    call.set("grad_out", rows(grad_out.to(query.dtype)))
    call.set("grad_lse", grad_lse.to(torch.float32)[..., None])
    call.set("grad_query", grad_query)
    call.set("grad_key", grad_key)
    call.set("grad_value", grad_value)
    call.run("reformer_attention_backward")
    return grad_query, grad_key, grad_value


def _result_like(query: Tensor) -> Tensor:
    """An empty tensor as large as the query, its pages mapped where it is large.

    A head's results are written when the head is done, seconds after the call at a million tokens.
    What the caller has just freed, the system has at hand now; later the host of a virtual machine
    may have taken it back, and gives it out at a twentieth of the rate: benchmarks/fresh_pages.cpp.
    """
    result = query.new_empty(query.shape)
    if result.nbytes >= _LARGE:
        step = _PAGE // result.element_size()
        result.as_strided((result.numel() // step,), (step,)).zero_()
    return result


class _Call:
    """The arguments of one call, and the tensors that must live as long."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor,
        order: Tensor | None,
        code: Tensor | None,
        segment_ids: Tensor | None,
        visibility: Visibility,
        scale: float,
        dropout: tuple[float, int],
    ) -> None:
        self._arguments = arguments = _Attention()
        self._tensors: list[Tensor] = []
        self.set("query", rows(query))
        self.set("key", None if key is None else rows(key))
        self.set("value", rows(value))
        self._set_order(order, code)
        rule, window, causal, include_self, before, after, gives_next = visibility
        if (rule == "chunk" or gives_next) and segment_ids is not None:
            segments = _small_integers(segment_ids)
            self._tensors.append(segments)
            arguments.segments = segments.data_ptr()
        arguments.batch, arguments.heads, arguments.length, arguments.width = query.shape
        arguments.rounds = 1 if order is None else order.shape[2]
        arguments.is_bfloat16 = query.dtype == torch.bfloat16
        arguments.is_chunk_rule = rule == "chunk"
        arguments.window = window
        arguments.causal, arguments.include_self = causal, include_self
        arguments.before, arguments.after, arguments.gives_next = before, after, gives_next
        rate, arguments.dropout_seed = dropout
        arguments.dropout_threshold = int(rate * 2**32)
        arguments.keep_factor = 1.0 / (1.0 - rate)
        arguments.scale, arguments.key_epsilon = scale, _KEY_EPSILON
        arguments.threads = torch.get_num_threads()

    def set(self, name: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            self._tensors.append(tensor)
        setattr(self._arguments, name, Strided.of(tensor))

    def _set_order(self, order: Tensor | None, code: Tensor | None) -> None:
        if order is None or code is None:
            return
        dtype = torch.int32 if order.dtype == code.dtype == torch.int32 else torch.int64
        self.set("order", rows(order.to(dtype)))
        self.set("code", rows(code.to(dtype)))
        self._arguments.is_wide_order = dtype == torch.int64

    def run(self, function: str) -> None:
        run(function, self._arguments)


def _small_integers(segment_ids: Tensor) -> Tensor:
    """Segment ids [B, L] as int32; ids beyond it are numbered anew, padding stays negative."""
    if segment_ids.dtype == torch.int64 and segment_ids.numel() > 0:
        least, most = (int(x) for x in segment_ids.aminmax())
        if least < -(2**31) or most >= 2**31:
            _, ranks = segment_ids.unique(return_inverse=True)
            segment_ids = torch.where(segment_ids < 0, -1, ranks)
    return segment_ids.to(torch.int32).contiguous()
