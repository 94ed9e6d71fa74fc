"""``reformer train``: say what will be trained, train it, show what came out."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reformer.cli.arguments import RUNS, TrainArguments
from reformer.cli.devices import find_device, multiplies_bfloat16
from reformer.cli.model_flags import layer_kinds
from reformer.cli.terminal import printable, table_of_counts
from reformer.config import ConfigError
from reformer.data.files import InputError
from reformer.data.tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer, tokenizer_in
from reformer.models.store import ModelError
from reformer.presets import preset
from reformer.tasks import prepare_task, task_kind
from reformer.training.allocator import (
    is_plenty,
    keep_freed_memory,
    most_with_freed,
    return_freed_memory,
)
from reformer.training.distributed import Processes, Sharded, joined, processes_here
from reformer.training.lock import locked
from reformer.training.loop import Outcome, train
from reformer.training.metrics import read_metrics
from reformer.training.planner import (
    fit,
    format_bytes,
    machine_memory,
    parse_bytes,
    plan,
    require_memory,
)
from reformer.training.plot import plot_losses
from reformer.training.progress import TerminalReporter, format_count, format_seconds
from reformer.training.run import (
    Run,
    RunDescription,
    create_run,
    find_run,
    next_run_path,
    open_run,
    require_vocabulary,
    shared_by,
)
from reformer.training.task import Task

_CHANGEABLE = {"steps", "evaluate_every", "evaluate_tokens", "save_every", "keep_last"}
"""Settings that a resumed run may change."""
_SLOW = (
    "This processor has no instructions for bfloat16: steps take many times as long as with "
    "--precision float32, and save only memory."
)


def run(arguments: TrainArguments) -> int:
    """Train, report; the exit code."""
    device = find_device(arguments.device)
    with joined(device, sharded=arguments.sharded) as (processes, device):
        if not processes.is_first:
            return _follow(processes, device)
        console = Console(highlight=False)
        job = _continue(arguments, processes) if arguments.resume else _create(arguments, processes)
        with locked(job.path):
            job, task = _prepare(arguments, job, lambda text: console.print(text, soft_wrap=True))
            if job.description.settings.precision == "bfloat16" and not multiplies_bfloat16(device):
                console.print(_SLOW, soft_wrap=True)
            processes.announce(os.path.abspath(job.path))
            keeps = _choose_allocator(job, arguments.memory)
            try:
                return _train(console, job, task, device, processes, keeps)
            except ModelError:  # --init does not fit
                if not (arguments.resume or job.has_model):  # nothing was trained
                    _discard(job)
                raise


class _Silent:
    """A Reporter in processes that say nothing: the first one does."""

    def say(self, sentence: str) -> None:
        pass

    def step(self, row: dict[str, Any], tokens_seen: int) -> None:
        pass


def _follow(processes: Processes, device: torch.device) -> int:
    """Train with the first process, once it has made the run and its data."""
    path = Path(processes.announce(""))
    silent = _Silent()
    job, task = prepare_task(open_run(path), length_fixed=False, say=silent.say)
    _choose_allocator(job, None)
    return train(job, task, silent, device, processes).exit_code


def _choose_allocator(job: Run, budget: str | None) -> bool:
    """Keep freed memory where there is plenty and no budget is set; whether it is kept."""
    expected = plan(job.description.config, job.description.settings).total
    keeps = budget is None and is_plenty(expected, machine_memory() // processes_here())
    (keep_freed_memory if keeps else return_freed_memory)()
    return keeps


def _train(
    console: Console,
    job: Run,
    task: Task,
    device: torch.device,
    processes: Processes,
    keeps_freed: bool,
) -> int:
    _introduce(console, job, task, keeps_freed)

    def draw() -> None:
        title = f"Reformer, preset {job.description.preset}"
        plot_losses(read_metrics(job.metrics), job.plot, title)

    with TerminalReporter(console, job.description.settings, draw) as reporter:
        outcome = train(job, task, reporter, device, processes)
    if isinstance(processes, Sharded):
        task = dataclasses.replace(task, example=None)  # this process has a part of the model
    _conclude(console, job, task, outcome)
    return outcome.exit_code


def _prepare(arguments: TrainArguments, job: Run, say: Callable[[str], None]) -> tuple[Run, Task]:
    """The run and what it learns; a new run whose input turns out bad leaves nothing behind."""
    if arguments.resume:
        return prepare_task(job.describe(job.description), length_fixed=False, say=say)
    length_fixed = job.description.config.max_length != preset(arguments.preset)[0].max_length
    try:
        return prepare_task(job, length_fixed=length_fixed, say=say)
    except (InputError, ConfigError):
        _discard(job)
        raise


def _discard(job: Run) -> None:
    """Nothing stays of a run that never started."""
    job.discard()
    with contextlib.suppress(OSError):  # it holds other runs
        RUNS.rmdir()


def _create(arguments: TrainArguments, processes: Processes) -> Run:
    """A new run folder; everything that can be checked before is."""
    settings = arguments.training
    kind = task_kind(settings.task)
    config = kind.config(arguments.config())
    kind.model.check(config)
    inputs = kind.inputs(arguments.inputs)
    if arguments.validation and not inputs:
        raise InputError(f"the {settings.task} task makes its own data: name no --validation file")
    if arguments.tokenizer and not kind.reads_text:
        raise InputError(f"the {settings.task} task reads no text: it needs no --tokenizer")
    tokenizer: Tokenizer = ByteTokenizer()
    if kind.reads_text:
        if arguments.init is not None:
            tokenizer = tokenizer_in(arguments.init)
        if arguments.tokenizer is not None:
            tokenizer = JsonTokenizer(arguments.tokenizer)
            if config.vocab_size == ByteTokenizer.vocab_size:
                config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
            require_vocabulary(tokenizer, config.vocab_size)
    if inputs:
        kind.find_files([*inputs, *([arguments.validation] if arguments.validation else [])])
    if arguments.memory is not None:
        config = fit(config, settings, parse_bytes(arguments.memory))
    if not arguments.sharded:  # the plan counts whole weights
        require_memory(plan(config, settings), machine_memory() // processes_here())
    description = RunDescription(
        preset=arguments.preset,
        config=config,
        settings=settings,
        inputs=tuple(os.path.abspath(item) for item in inputs),
        validation=arguments.validation and os.path.abspath(arguments.validation),
        init=None if arguments.init is None else os.path.abspath(arguments.init),
        processes=processes.count,
    )
    path = arguments.out or next_run_path(RUNS, arguments.preset)
    return create_run(path, description, tokenizer)


def _continue(arguments: TrainArguments, processes: Processes) -> Run:
    """The run as it shall go on; an error for settings that may not change."""
    existing = find_run(RUNS, arguments.out, arguments.preset)
    old = existing.description
    given = tuple(os.path.abspath(item) for item in arguments.inputs)
    if given and given != old.inputs:
        raise InputError(f"{existing.path} was started on other files: leave them out to resume it")
    if arguments.tokenizer or arguments.validation or arguments.init:
        raise InputError("--tokenizer, --validation and --init are fixed when a run starts")
    if arguments.preset != old.preset:
        raise ConfigError(f"{existing.path} was started with --preset {old.preset}")
    before = old.config.to_dict() | old.settings.to_dict()
    after = arguments.config().to_dict() | arguments.training.to_dict()
    for name, value in after.items():
        if value != before[name] and name not in _CHANGEABLE:
            flag = "length" if name == "max_length" else name
            raise ConfigError(
                f"{flag} is {value} here and {before[name]} in {existing.path}: a run goes on "
                "with what it was started with; start another one to change it"
            )
    changed = dataclasses.replace(old, settings=arguments.training)
    if arguments.memory is not None:
        require_memory(plan(old.config, changed.settings), parse_bytes(arguments.memory))
    return dataclasses.replace(existing, description=shared_by(changed, processes.count))


def _introduce(console: Console, job: Run, task: Task, keeps_freed: bool) -> None:
    """What will be trained, in a few lines."""
    config, settings = job.description.config, job.description.settings
    expected = plan(config, settings)
    sequences = job.description.sequences_per_step
    memory = f"about {format_bytes(expected.total)} of {format_bytes(machine_memory())}"
    if keeps_freed:
        most = format_bytes(most_with_freed(expected.total))
        memory += f", and up to {most} since freed memory is kept for speed (--memory bounds it)"
    lines = {
        "Model": f"{format_count(expected.num_parameters)} parameters, "
        f"{len(config.all_layers)} layers ({layer_kinds(config)})",
        "Data": task.data,
        "Sequence": f"{config.max_length:,} tokens, {sequences} per step; "
        f"{settings.steps:,} steps see "
        f"{format_count(settings.steps * sequences * config.max_length)} tokens",
        "Memory": memory,
        "Run": str(job.path),
    }
    for name, text in lines.items():
        console.print(Text.assemble((f"{name:<10}", "bold"), text), soft_wrap=True)


def _conclude(console: Console, job: Run, task: Task, outcome: Outcome) -> None:
    """A table of results and an example, or how to go on."""
    if outcome.exit_code != 0:
        console.print(
            f"Stopped after step {outcome.step}. Everything is saved; go on with: "
            f"reformer train --out {job.path} --resume",
            soft_wrap=True,
        )
        return
    table = Table(title="Result", show_header=False)
    table.add_row("best weights", f"step {outcome.best_step}")
    numbers = {k: v for k, v in outcome.metrics.items() if not isinstance(v, dict)}
    for name, value in numbers.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    table.add_row("time", format_seconds(outcome.seconds))
    table.add_row("run folder", str(job.path))
    console.print(table)
    for name in outcome.metrics.keys() - numbers.keys():
        console.print(table_of_counts(name, outcome.metrics[name]))
    if task.example is not None:
        console.print("A sample:", style="bold")
        for piece in task.example(outcome.model):
            console.print(Text(printable(piece)), end="", soft_wrap=True)
        console.print()
