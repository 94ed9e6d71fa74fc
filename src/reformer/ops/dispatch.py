"""Which implementation of an op runs: one table, one decision, a reason for every refusal.

Each op file registers its plain-torch implementation as backend "torch"; the native kernels
stand here as "cpu", and load their library when first asked. "auto" takes the fastest that
supports the inputs. A backend asked for by name never falls back: it runs, or raises with
the reason.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from reformer.kernels import cpu

BACKENDS = ("auto", "cpu", "torch", "reference")
OPS = ("hash_vectors", "sort_tokens", "attention", "attention_backward")

Implementation = Callable[..., Any]
Refusal = Callable[[Tensor], str | None]

_implementations: dict[tuple[str, str], Implementation] = {}
_refusals: dict[tuple[str, str], Refusal] = {}
_chosen: ContextVar[str] = ContextVar("reformer_backend", default="auto")


class BackendError(RuntimeError):
    """A backend that was asked for by name and cannot run these inputs."""


def register(op: str, backend: str, refusal: Refusal | None = None) -> Callable[..., Any]:
    """Decorator: this function computes ``op`` on ``backend``.

    ``refusal`` gets the op's first tensor and says why the backend cannot take it, or None.
    """

    def add(function: Implementation) -> Implementation:
        _implementations[op, backend] = function
        if refusal is not None:
            _refusals[op, backend] = refusal
        return function

    return add


for _op in OPS:
    register(_op, "cpu", refusal=cpu.refusal)(getattr(cpu, _op))
register("append_linked", "cpu", refusal=cpu.append_refusal)(cpu.append_linked)
register("append_windowed", "cpu", refusal=cpu.append_refusal)(cpu.append_windowed)
register("append_layer", "cpu", refusal=cpu.layer_refusal)(cpu.append_layer)


def native_kernels() -> cpu.Description:
    """Which native kernels this process has, and why."""
    return cpu.description()


class use_backend:  # noqa: N801 - used like torch.set_grad_enabled
    """Ops that are left at "auto" use the named backend from here on, in this thread.

    As a context manager, until the end of the block:

        with reformer.use_backend("reference"):
            ...
    """

    def __init__(self, name: str) -> None:
        check_backend(name)
        self._token = _chosen.set(name)

    def __enter__(self) -> None:
        """Nothing is left to do: the backend is in force since the call."""

    def __exit__(self, *_: object) -> None:
        _chosen.reset(self._token)


def check_backend(name: str) -> None:
    """Raise ValueError unless ``name`` is a backend."""
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}: use one of {', '.join(BACKENDS)}")


def resolve(backend: str) -> str:
    """The backend in force: the argument, or the surrounding ``use_backend``.

    While torch.compile traces, "auto" stays "auto": the operators decide when they run.
    """
    check_backend(backend)
    if backend != "auto" or torch.compiler.is_compiling():
        return backend
    return _chosen.get()


def refusal(op: str, backend: str, tensor: Tensor) -> str | None:
    """Why ``backend`` cannot compute ``op`` on this tensor; None when it can."""
    if (op, backend) not in _implementations:
        return f"{op} has no {backend} kernel in this installation"
    check = _refusals.get((op, backend))
    return check(tensor) if check is not None else None


def implementation(op: str, backend: str, tensor: Tensor) -> Implementation:
    """The function that computes ``op`` for an input like ``tensor``."""
    name = resolve(backend)
    if name in ("torch", "reference"):
        return _implementations[op, "torch"]
    reason = refusal(op, "cpu", tensor)
    if reason is None:
        return _implementations[op, "cpu"]
    if name == "cpu":
        raise BackendError(f"backend 'cpu' cannot run {op} here: {reason}")
    return _implementations[op, "torch"]
