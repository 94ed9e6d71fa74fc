"""What can be learned: one task per file, found by its name."""

import importlib
from collections.abc import Callable

from reformer.training.run import Run
from reformer.training.task import Task, TaskKind


def task_kind(name: str) -> TaskKind:
    """The task of ``settings.Task`` with this name: ``TASK`` in the file called after it."""
    kind: TaskKind = importlib.import_module(f"reformer.tasks.{name}").TASK
    return kind


def prepare_task(run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> tuple[Run, Task]:
    """The run's task with its data ready, and the run with the config that these demand.

    When the text is shorter than the model's max_length, an error says so if the length was
    asked for (``length_fixed``); else the model is made shorter and ``say`` tells.
    """
    kind = task_kind(run.description.settings.task)
    while isinstance(prepared := kind.prepare(run, length_fixed=length_fixed, say=say), Run):
        run = prepared
    return run, prepared
