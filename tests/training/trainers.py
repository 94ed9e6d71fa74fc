"""What each process does that torchrun starts for test_distributed.py: train run after run.

Argument: a folder with the runs. Each process leaves what it saw in ``process-RANK.json`` there.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from reformer.models.language import ReformerForCausalLM
from reformer.tasks import prepare_task
from reformer.training.distributed import Processes, Replicated, Sharded, joined
from reformer.training.loop import TrainingError, train
from reformer.training.run import open_run, shared_by
from tests.training.conftest import Listener

SIGNALLED = 3
"""The step after which the last process alone gets a SIGTERM."""

SPOILT = 5
"""The forward pass whose loss is not a number; the last of two processes computes it."""


def main(root: Path) -> None:
    """Train the runs in ``root``, each as its name says."""
    with joined(torch.device("cpu"), sharded=False) as (processes, _):
        if not processes.is_first:
            _forbid_writing(root / "runs")
        copies, parts = Replicated(), Sharded()
        seen = {
            "replicated": _train(root, "replicated", copies),
            "sharded": _train(root, "sharded", parts),
            "doubled": _train(root, "doubled", copies),
            "narrow": _train(root, "narrow", copies),
            "narrow-sharded": _train(root, "narrow-sharded", parts),
            "to-be-one": _train(root, "to-be-one", parts, steps=3),
            "was-one": _train(root, "was-one", parts, steps=6),
            "stopped": _train(root, "stopped", copies, on_step=_signal_the_last(copies)),
            "stopped-sharded": _train(
                root, "stopped-sharded", parts, on_step=_signal_the_last(parts)
            ),
            "resumed": _train(root, "stopped", copies),
        }
        _spoil_the_last(copies)
        seen["spoilt"] = _train(root, "spoilt", copies)
        seen["spoilt-sharded"] = _train(root, "spoilt-sharded", parts)
    root.joinpath(f"process-{processes.rank}.json").write_text(json.dumps(seen))


def _train(
    root: Path,
    name: str,
    processes: Processes,
    *,
    steps: int | None = None,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    run = open_run(root / "runs" / name)
    description = run.description
    if steps is not None:
        settings = replace(description.settings, steps=steps)
        description = shared_by(replace(description, settings=settings), processes.count)
    run = replace(run, description=description)
    if processes.is_first:
        prepare_task(run, length_fixed=True, say=print)
    processes.announce(None)
    run, task = prepare_task(run, length_fixed=True, say=print)
    try:
        outcome = train(run, task, Listener(on_step), torch.device("cpu"), processes)
    except TrainingError as error:
        return {"error": str(error)}
    values = {key: value for key, value in vars(outcome).items() if key not in ("model", "seconds")}
    return {**values, "processes": processes.count, "settings": asdict(description.settings)}


def _signal_the_last(processes: Processes) -> Callable[[dict[str, Any]], None]:
    def signal_it(row: dict[str, Any]) -> None:
        if row["step"] == SIGNALLED and processes.rank == processes.count - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    return signal_it


def _spoil_the_last(processes: Processes) -> None:
    forward = ReformerForCausalLM.forward

    def spoilt(self: ReformerForCausalLM, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        return out._replace(loss=out.loss * float("nan")) if kwargs.get("draw") == SPOILT else out

    ReformerForCausalLM.forward = spoilt  # type: ignore[method-assign]
    assert processes.count == 2


def _forbid_writing(folder: Path) -> None:
    """End this process when it opens a file of the runs for writing, or renames one."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (changes or writes) and str(arguments[0]).startswith(str(folder)):
            raise AssertionError(f"only the first process writes: {event} {arguments}")

    sys.addaudithook(watch)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
