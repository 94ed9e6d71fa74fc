"""Finding and loading the compiled kernels, in the build that fits this processor.

One source is compiled for several instruction sets; the best that the processor can run is
loaded. Two environment variables, read once, override that:

    REFORMER_CPU_ISA       baseline, avx2 or avx512: that build and no other
    REFORMER_CPU_LIBRARY   path of a library, for builds with sanitizers
"""

import ctypes
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Loading torch first makes the kernels share its OpenMP runtime and thread count.
import torch
from torch import Tensor

ISA_VARIABLE = "REFORMER_CPU_ISA"
PATH_VARIABLE = "REFORMER_CPU_LIBRARY"
# From slowest to fastest; the index is the level that `reformer_can_run` takes.
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")

_FOLDER = Path(__file__).parent
_logger = logging.getLogger("reformer")


@dataclass(frozen=True)
class Description:
    """What the CPU kernels of this process are, for people."""

    path: Path | None
    """The loaded library; None: there is none."""
    instruction_set: str | None
    """One of ``INSTRUCTION_SETS``, or "custom" for a library given by its path."""
    reason: str
    """Why this library, or why none."""

    @property
    def summary(self) -> str:
        """One line."""
        if self.path is None:
            return f"none: {self.reason}"
        return f"{self.instruction_set} ({self.reason}), {self.path}"


@dataclass(frozen=True)
class _Library:
    handle: ctypes.CDLL | None
    description: Description


def _path_of(instruction_set: str) -> Path | None:
    path = _FOLDER / f"reformer_{instruction_set}.so"
    return path if path.exists() else None


def _can_run(instruction_set: str) -> bool:
    """Whether the processor has the instructions of a build; asked of the baseline build."""
    baseline = _path_of("baseline")
    if baseline is None:
        return False
    check = ctypes.CDLL(str(baseline)).reformer_can_run
    check.argtypes, check.restype = [ctypes.c_int64], ctypes.c_int64
    return bool(check(INSTRUCTION_SETS.index(instruction_set)))


def _open(path: Path, instruction_set: str, reason: str) -> _Library:
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return _Library(None, Description(None, None, f"{path} cannot be loaded: {error}"))
    return _Library(handle, Description(path, instruction_set, reason))


def _forced(instruction_set: str) -> _Library:
    """The build that the environment asks for, or why it cannot be had."""
    where = f"{ISA_VARIABLE}={instruction_set}"
    if instruction_set not in INSTRUCTION_SETS:
        reason = f"{where} is not one of {', '.join(INSTRUCTION_SETS)}"
    elif (path := _path_of(instruction_set)) is None:
        reason = f"{where} asks for a build that this installation does not have"
    elif not _can_run(instruction_set):
        reason = f"{where} asks for instructions that this processor does not have"
    else:
        return _open(path, instruction_set, f"{where} asks for it")
    return _Library(None, Description(None, None, reason))


@cache
def _library() -> _Library:
    if path := os.environ.get(PATH_VARIABLE):
        return _open(Path(path), "custom", f"{PATH_VARIABLE} names it")
    if forced := os.environ.get(ISA_VARIABLE):
        return _forced(forced)
    for instruction_set in reversed(INSTRUCTION_SETS):
        path_found = _path_of(instruction_set)
        if path_found is not None and _can_run(instruction_set):
            reason = "the fastest build that this processor can run"
            return _open(path_found, instruction_set, reason)
    reason = (
        "the native kernels were not built when the package was installed; "
        "install a C++17 compiler (GCC 12 or later, or Clang) and install the package again"
    )
    return _Library(None, Description(None, None, reason))


@cache
def _say_what_is_missing(reason: str) -> None:
    _logger.warning("Running on plain torch, several times slower: %s.", reason)


def description() -> Description:
    """Which library is loaded, for which instruction set, and why; for ``reformer doctor``."""
    return _library().description


def refusal(tensor: Tensor) -> str | None:
    """Why the kernels cannot compute an op whose first tensor is this one; None when they can.

    The first refusal for want of a library is also logged, once.
    """
    if tensor.device.type != "cpu":
        return f"the tensors are on {tensor.device}, not on the CPU"
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.bfloat16):
        return f"the dtype is {tensor.dtype}; the kernels take float32 and bfloat16"
    library = _library()
    if library.handle is None:
        _say_what_is_missing(library.description.reason)
        return library.description.reason
    return None


def run(function: str, arguments: ctypes.Structure) -> None:
    """Call a kernel with its structure of arguments."""
    if call(function, arguments) != 0:
        raise MemoryError(f"{function}: not enough memory for its scratch arrays")


def call(function: str, arguments: ctypes.Structure) -> int:
    """Call a kernel with its structure of arguments; its result, 0 when all went well."""
    handle = _library().handle
    if handle is None:
        raise RuntimeError(_library().description.reason)
    return int(_kernel(handle, function)(ctypes.addressof(arguments)))


@cache
def _kernel(handle: ctypes.CDLL, function: str) -> Callable[[int], int]:
    kernel = handle[function]
    kernel.argtypes, kernel.restype = [ctypes.c_void_p], ctypes.c_int64
    return kernel


class Strided(ctypes.Structure):
    """A tensor [B, H, X, contiguous] as the kernels see it: strides in bytes."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("row", ctypes.c_int64),
    ]

    @classmethod
    def of(cls, tensor: Tensor | None) -> "Strided":
        """The tensor must outlive the call; its last dimension must be contiguous."""
        if tensor is None:
            return cls(None, 0, 0, 0)
        size = tensor.element_size()
        batch, head, row = (stride * size for stride in tensor.stride()[:3])
        return cls(tensor.data_ptr(), batch, head, row)


def rows(tensor: Tensor) -> Tensor:
    """The tensor itself if the numbers of a row lie side by side, else a copy where they do."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()
