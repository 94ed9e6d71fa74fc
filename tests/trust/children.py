"""Real processes without the two seconds that importing torch takes.

Children are forked from a server that has imported everything and computed nothing, so each
begins as `python -m reformer` does once its imports are done.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

# Imported for the server that preloads this module: what a command would load while it runs.
import torch._dynamo

from reformer.cli import main
from reformer.tasks import prepare_task
from reformer.training.checkpoint import CheckpointError
from reformer.training.lock import locked
from reformer.training.loop import TrainingError, train
from reformer.training.run import RunError, open_run

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])

Prepare = Callable[[], object]


def command(words: Sequence[object], output: Path, prepare: Prepare | None = None) -> "Child":
    """Start `reformer WORDS…`; what it prints goes to ``output``.

    prepare: called in the child first; must be picklable.
    """
    process = _CONTEXT.Process(target=_run, args=([str(w) for w in words], output, prepare))
    process.start()
    return Child(process, output)


class Child:
    """A command under way."""

    def __init__(self, process: ForkServerProcess, output: Path) -> None:
        self._process, self.output = process, output

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process is still there."""
        if self._process.is_alive():
            os.kill(self._process.pid, number)

    def wait(self, seconds: float = 1800.0) -> int:
        """The exit code; negative for a signal. A test fails when it is longer than a busy machine
        can explain."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise AssertionError(f"no end after {seconds} s: {self.text()}")
        return code

    def wait_until(self, seconds: float) -> None:
        """Let time pass, or the process end."""
        self._process.join(seconds)

    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


def _run(words: list[str], output: Path, prepare: Prepare | None) -> None:
    _begin(output, prepare)
    sys.exit(main(words))


def _begin(output: Path, prepare: Prepare | None) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    if prepare is not None:
        prepare()


def training(path: Path, output: Path, prepare: Prepare | None = None) -> "Child":
    """Start training the run in ``path`` from its last checkpoint, without the command's
    pictures and samples; exit codes are the command's."""
    process = _CONTEXT.Process(target=_train, args=(path, output, prepare))
    process.start()
    return Child(process, output)


def calling(function: Callable[..., None], arguments: tuple[Any, ...], output: Path) -> "Child":
    """Start a function of a test's; it must be picklable."""
    process = _CONTEXT.Process(target=_call, args=(function, arguments, output))
    process.start()
    return Child(process, output)


class _Silent:
    """A Reporter that prints sentences alone."""

    def say(self, sentence: str) -> None:
        print(sentence, flush=True)

    def step(self, row: dict[str, Any], tokens_seen: int) -> None:
        pass


def _call(function: Callable[..., None], arguments: tuple[Any, ...], output: Path) -> None:
    _begin(output, None)
    function(*arguments)


def _train(path: Path, output: Path, prepare: Prepare | None) -> None:
    _begin(output, prepare)
    try:
        with locked(path):
            run, task = prepare_task(open_run(path), length_fixed=True, say=print)
            outcome = train(run, task, _Silent(), torch.device("cpu"))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (OSError, CheckpointError, TrainingError, RunError) as error:
        print(f"reformer: {error}")
        sys.exit(2 if isinstance(error, RunError) else 1)
    sys.exit(outcome.exit_code)
