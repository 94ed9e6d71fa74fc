"""``reformer train``: say what will be trained, train it, show what came out."""

import contextlib
import dataclasses
import os
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reformer.cli.arguments import RUNS, TrainArguments
from reformer.cli.devices import find_device
from reformer.cli.model_flags import layer_kinds
from reformer.cli.terminal import printable
from reformer.config import ConfigError
from reformer.data.files import InputError, find_files, shipped_novel
from reformer.data.tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer, tokenizer_in
from reformer.generation.decode import generate
from reformer.generation.sampling import Sampling
from reformer.generation.text import encode_prompt, stream_text
from reformer.presets import preset
from reformer.training.loop import Outcome, train
from reformer.training.metrics import read_metrics
from reformer.training.planner import (
    format_bytes,
    machine_memory,
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
    require_vocabulary,
)
from reformer.training.task import Task, prepare_task

_SAMPLE_TOKENS = 200
_CHANGEABLE = {"steps", "evaluate_every", "evaluate_tokens", "save_every", "keep_last"}
"""Settings that a resumed run may change."""


def run(arguments: TrainArguments) -> int:
    """Train, report; the exit code."""
    console = Console(highlight=False)
    device = find_device(arguments.device)
    job, task = _prepare(arguments, lambda sentence: console.print(sentence, soft_wrap=True))
    _introduce(console, job, task)

    def draw() -> None:
        title = f"Reformer, preset {job.description.preset}"
        plot_losses(read_metrics(job.metrics), job.plot, title)

    with TerminalReporter(console, job.description.settings, draw) as reporter:
        outcome = train(job, task, reporter, device)
    _conclude(console, job, outcome)
    return outcome.exit_code


def _prepare(arguments: TrainArguments, say: Callable[[str], None]) -> tuple[Run, Task]:
    """The run and what it learns; a new run whose input turns out bad leaves nothing behind."""
    if arguments.resume:
        return prepare_task(_continue(arguments), length_fixed=False, say=say)
    job = _create(arguments)
    length_fixed = job.description.config.max_length != preset(arguments.preset)[0].max_length
    try:
        return prepare_task(job, length_fixed=length_fixed, say=say)
    except (InputError, ConfigError):
        job.discard()
        with contextlib.suppress(OSError):  # it holds other runs
            RUNS.rmdir()
        raise


def _create(arguments: TrainArguments) -> Run:
    """A new run folder; everything that can be checked before is."""
    config = arguments.config()
    settings = arguments.training
    tokenizer: Tokenizer = ByteTokenizer()
    inputs = arguments.inputs
    if settings.task == "text" and not inputs:
        inputs = (str(shipped_novel()),)
    if settings.task == "dialogue" and not inputs:
        raise InputError(
            'the dialogue task learns conversations: name a file with one {"messages": […]} a line'
        )
    if settings.task != "copy":
        if arguments.init is not None:
            tokenizer = tokenizer_in(arguments.init)
        if arguments.tokenizer is not None:
            tokenizer = JsonTokenizer(arguments.tokenizer)
            if config.vocab_size == ByteTokenizer.vocab_size:
                config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
            require_vocabulary(tokenizer, config.vocab_size)
        find_files([*inputs, *([arguments.validation] if arguments.validation else [])])
    elif arguments.inputs or arguments.tokenizer or arguments.validation:
        raise InputError(f"the {settings.task} task makes its own data: name no files with it")
    require_memory(plan(config, settings), machine_memory())
    description = RunDescription(
        preset=arguments.preset,
        config=config,
        settings=settings,
        inputs=tuple(os.path.abspath(item) for item in inputs),
        validation=arguments.validation and os.path.abspath(arguments.validation),
        init=None if arguments.init is None else os.path.abspath(arguments.init),
    )
    path = arguments.out or next_run_path(RUNS, arguments.preset)
    return create_run(path, description, tokenizer)


def _continue(arguments: TrainArguments) -> Run:
    """The run with the settings that may change; an error for those that may not."""
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
    if arguments.training == old.settings:
        return existing
    return existing.describe(dataclasses.replace(old, settings=arguments.training))


def _introduce(console: Console, job: Run, task: Task) -> None:
    """What will be trained, in a few lines."""
    config, settings = job.description.config, job.description.settings
    expected = plan(config, settings)
    sequences = settings.batch_size * settings.accumulation_steps
    lines = {
        "Model": f"{format_count(expected.num_parameters)} parameters, "
        f"{len(config.layers)} layers ({layer_kinds(config)})",
        "Data": _describe_data(task, config.vocab_size),
        "Sequence": f"{config.max_length:,} tokens, {sequences} per step; "
        f"{settings.steps:,} steps see "
        f"{format_count(settings.steps * sequences * config.max_length)} tokens",
        "Memory": f"about {format_bytes(expected.total)} of {format_bytes(machine_memory())}",
        "Run": str(job.path),
    }
    for name, text in lines.items():
        console.print(Text.assemble((f"{name:<10}", "bold"), text), soft_wrap=True)


def _describe_data(task: Task, vocab_size: int) -> str:
    if task.num_tokens is None or task.num_bytes is None:
        return "made up on the fly"
    return (
        f"{format_bytes(task.num_bytes)} of text, {task.num_tokens:,} tokens "
        f"from a vocabulary of {vocab_size:,}"
    )


def _conclude(console: Console, job: Run, outcome: Outcome) -> None:
    """A table of results and a sample of text, or how to go on."""
    if outcome.exit_code != 0:
        console.print(
            f"Stopped after step {outcome.step}. Everything is saved; go on with: "
            f"reformer train --out {job.path} --resume",
            soft_wrap=True,
        )
        return
    table = Table(title="Result", show_header=False)
    table.add_row("best weights", f"step {outcome.best_step}")
    for name, value in outcome.metrics.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    table.add_row("time", format_seconds(outcome.seconds))
    table.add_row("run folder", str(job.path))
    console.print(table)
    if job.description.settings.task == "text":
        _print_sample(console, job, outcome)


def _print_sample(console: Console, job: Run, outcome: Outcome) -> None:
    tokenizer = job.tokenizer()
    ids = generate(
        outcome.model,
        encode_prompt("", tokenizer),
        max_new_tokens=_SAMPLE_TOKENS,
        sampling=Sampling(temperature=0.8),
        seed=job.description.config.seed,
    )
    console.print("A sample:", style="bold")
    for piece in stream_text(ids, tokenizer):
        console.print(Text(printable(piece)), end="", soft_wrap=True)
    console.print()
