"""Several processes that train one model, as ``torchrun`` starts them.

Each works on its own sequences of a step, and gradients are averaged over all. A process's
forward pass has the number, and with it the sequences, dropout masks and hash rotations, that it
would have in one process with so many more ``accumulation_steps``. The first process alone
writes files. What processes tell each other travels as JSON on CPU tensors; nothing is pickled.
"""

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from reformer.config import ConfigError
from reformer.models.pretrained import PretrainedReformer
from reformer.models.reformer import VocabularyError
from reformer.nn.reversible import ReversibleBlock
from reformer.nn.streams import StreamRangeError
from reformer.training.optim import NonFiniteError
from reformer.training.stop import StopRequest, StopRequestedError

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""Others wait while the first reads a large corpus; a process that died is noticed at once."""

_SECONDS_TO_END = 60.0
"""How long a process waits for torchrun to end it, once another has failed."""

_FAILURES: dict[str, type[Exception]] = {
    error.__name__: error for error in (NonFiniteError, StreamRangeError, VocabularyError)
}
"""Errors of a step in which no process has changed a weight."""


class ProcessError(RuntimeError):
    """Another process of this run has failed, or this one in a way that others cannot follow."""


class Alone:
    """One process: nobody to wait for. The kinds of ``_Together`` have the same methods."""

    rank = 0
    count = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks, and writes files."""
        return self.rank == 0

    def place(self, model: PretrainedReformer, device: torch.device) -> PretrainedReformer:
        """The model where it is to compute."""
        return model.to(device)

    def connect(self, model: PretrainedReformer) -> nn.Module:
        """What to call instead of the model, so that gradients are those of all processes."""
        return model

    def accumulating(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Around a forward and backward pass; gradients must be averaged after the last one."""
        return nullcontext()

    def agreeing(self) -> AbstractContextManager[None]:
        """What fails in here in one process fails in all of them, before any goes on."""
        return nullcontext()

    def find(self, value: T | None) -> T | None:
        """What the first of those processes has found that found something (JSON values)."""
        return value

    def announce(self, value: T) -> T:
        """The first process's value, in every process (JSON values); all wait for it."""
        return value

    def mean(self, value: float) -> float:
        """The mean over all processes."""
        return value

    def check(self, stop: StopRequest) -> None:
        """Raise ``StopRequestedError`` in all processes if a signal has come to one."""
        stop.check()

    def gather(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors as wholes, for the first process to write; what others get is undefined."""
        return tensors

    def share_out(
        self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The inverse of ``gather``: of each whole tensor what ``like[name]`` holds of it."""
        return dict(tensors)


class _Together(Alone):
    """One of several processes."""

    failures: tuple[type[Exception], ...]
    """Errors of a forward pass after which all processes still stand at the same place."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        failure = None
        try:
            yield
        except self.failures as error:
            failure = [type(error).__name__, str(error)]
        except tuple(_FAILURES.values()) as error:
            raise ProcessError(f"process {self.rank} failed: {error}") from error
        failure = self.find(failure)
        if failure is not None:
            name, message = failure
            raise _FAILURES[name](message)

    def find(self, value: T | None) -> T | None:
        finder = torch.tensor(self.count if value is None else self.rank)
        dist.all_reduce(finder, dist.ReduceOp.MIN)
        return None if int(finder) == self.count else self._broadcast(value, int(finder))

    def announce(self, value: T) -> T:
        return self._broadcast(value, 0)

    def _broadcast(self, value: Any, source: int) -> Any:
        data = bytearray(json.dumps(value).encode())
        length = torch.tensor(len(data))
        dist.broadcast(length, source)
        content = torch.frombuffer(data, dtype=torch.uint8)
        if self.rank != source:
            content = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(content, source)
        return json.loads(content.numpy().tobytes())

    def mean(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total) / self.count

    def check(self, stop: StopRequest) -> None:
        code = torch.tensor(stop.exit_code or 0)
        dist.all_reduce(code, dist.ReduceOp.MAX)
        if int(code):
            raise StopRequestedError(int(code))


class Replicated(_Together):
    """Every process has the whole model: DistributedDataParallel."""

    failures = tuple(_FAILURES.values())

    def connect(self, model: PretrainedReformer) -> nn.Module:
        # Never find_unused_parameters: it looks for parameters in the graph of the forward pass,
        # and the reversible stack has none.
        return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)

    def accumulating(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        assert isinstance(module, nn.parallel.DistributedDataParallel)
        return nullcontext() if last else module.no_sync()


class Sharded(_Together):
    """Every process has a part of each tensor: FSDP2. Gradients are averaged in each pass."""

    # Layers wait for each other's parts, so what fails in one of them is this process's alone.
    failures = (NonFiniteError,)

    def place(self, model: PretrainedReformer, device: torch.device) -> PretrainedReformer:
        """Shard the model, one part of a block after the other: the whole need not fit."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # Nothing of ours writes into what a layer returns.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(device.type, (self.count,))
        for block in [m for m in model.modules() if isinstance(m, ReversibleBlock)]:
            # The backward rebuilds and differentiates one branch of a block after the other.
            for branch in block.branches:
                parts = [getattr(block, name) for name in (f"{branch}_norm", branch)]
                fully_shard(parts, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def gather(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        from torch.distributed.tensor import DTensor

        whole = {}
        for name, tensor in tensors.items():
            if isinstance(tensor, DTensor):
                tensor = tensor.full_tensor()  # all processes take part
            if self.is_first:
                whole[name] = tensor.cpu()
        return whole

    def share_out(
        self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        from torch.distributed.tensor import DTensor, distribute_tensor

        parts = dict(tensors)
        for name, tensor in tensors.items():
            target = like.get(name)
            if isinstance(target, DTensor):
                # Every process has read the whole and keeps its own part.
                parts[name] = distribute_tensor(
                    tensor.to(target.device), target.device_mesh, target.placements,
                    src_data_rank=None,
                )  # fmt: skip
        return parts


Processes = Alone | Replicated | Sharded


@contextmanager
def joined(device: torch.device, *, sharded: bool) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that torchrun has started, and get a device of one's own.

    An error in one process ends all of them, and the one that failed first raises it.
    ConfigError when ``sharded`` is asked for without torchrun, or when devices are too few.
    """
    if not dist.is_torchelastic_launched():
        if sharded:
            raise ConfigError(
                "--sharded divides a model among processes: start them with "
                "torchrun --nproc-per-node 2 -m reformer train --sharded …"
            )
        yield Alone(), device
        return
    if device.type == "cuda":
        device = _own_gpu()
    store, rank, count = next(rendezvous("env://"))
    with _failing_together(PrefixStore("reformer", store)):
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE
        )
        yield Sharded() if sharded else Replicated(), device
    dist.destroy_process_group()


def processes_here() -> int:
    """Processes of this run on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def _own_gpu() -> torch.device:
    number = int(os.environ["LOCAL_RANK"])
    if number >= torch.cuda.device_count():
        raise ConfigError(
            f"there are {processes_here()} processes on this machine and "
            f"{torch.cuda.device_count()} GPUs: start one process per GPU"
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


@contextmanager
def _failing_together(store: Store) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if store.add("failures", 1) > 1:
            # Not the cause. To exit now would make torchrun end the process that explains it.
            time.sleep(_SECONDS_TO_END)
            raise SystemExit(1) from error
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ProcessError(
                "another process of this run has ended: go on from the last checkpoint "
                "with --resume"
            ) from error
        raise
