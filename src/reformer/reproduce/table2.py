"""The paper's table 2: the duplication task, trained with few rounds and evaluated with many."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reformer.data.tokenizer import ByteTokenizer
from reformer.models.language import ReformerForCausalLM
from reformer.presets import Preset, preset
from reformer.reproduce.findings import (
    Check,
    Findings,
    Interrupted,
    Row,
    Say,
    Size,
    markdown_table,
)
from reformer.reproduce.journal import Journal
from reformer.tasks import prepare_task
from reformer.tasks.copy import copy_validation
from reformer.training.loop import train
from reformer.training.run import RUN_FILE, Run, RunDescription, create_run, open_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER = {
    4: {8: 1.0, 4: 0.999, 2: 0.994, 1: 0.919},
    2: {8: 1.0, 4: 0.999, 2: 0.981, 1: 0.868},
    1: {8: 0.999, 4: 0.996, 2: 0.948, 1: 0.779},
}
"""Accuracy by rounds in training, then by rounds in evaluation."""
_TOLERANCE = 0.01


def measure(size: Size, folder: Path, say: Say) -> Findings:
    """Train each row as an ordinary run, then count what it gets right with 8, 4, 2, 1 rounds."""
    rounds = (4, 2, 1) if size == "full" else (4,)
    journal = Journal(folder / f"table2-{size}.jsonl")
    for trained in rounds:
        if journal.find({"trained_rounds": trained}) is None:
            journal.add(_row(trained, size, folder, say))
    return _judge(journal.rows, size)


def _preset(size: Size) -> Preset:
    config, settings = preset("copy")
    if size == "full":
        return config, settings
    config = dataclasses.replace(config, max_length=128, axial_shape=(128,))
    return config, dataclasses.replace(settings, steps=1000)


def _row(trained: int, size: Size, folder: Path, say: Say) -> Row:
    config, settings = _preset(size)
    config = config.with_num_hashes(trained)
    path = folder / f"table2-{size}-{trained}-rounds"
    if (path / RUN_FILE).is_file():
        run = open_run(path)
    else:
        run = create_run(path, RunDescription("copy", config, settings), ByteTokenizer())
    seconds = _train(run, _Sentences(f"trained with {trained} rounds", say, settings.steps))
    accuracies = {}
    for evaluated in PAPER[trained]:
        model = ReformerForCausalLM.from_pretrained(path, num_hashes=evaluated)
        measured = copy_validation(model.config).measure(model, whole=True)
        accuracies[str(evaluated)] = measured["validation_accuracy"]
        say(f"trained with {trained}, evaluated with {evaluated}: {accuracies[str(evaluated)]:.2%}")
    return {
        "trained_rounds": trained,
        "length": config.max_length,
        "steps": settings.steps,
        "seconds": round(seconds),
        "accuracy": accuracies,
    }


def _train(run: Run, reporter: "_Sentences") -> float:
    run, task = prepare_task(run, length_fixed=True, say=reporter.say)
    outcome = train(run, task, reporter, torch.device("cpu"))
    if outcome.exit_code != 0:
        raise Interrupted(outcome.exit_code)
    return outcome.seconds


class _Sentences:
    """A reporter that speaks at each validation."""

    def __init__(self, name: str, say: Say, steps: int) -> None:
        self.name, self.say, self.steps = name, say, steps

    def step(self, row: Row, tokens_seen: int) -> None:
        if "validation_accuracy" in row:
            accuracy = row["validation_accuracy"]
            self.say(f"{self.name}: step {row['step']} of {self.steps}, {accuracy:.1%} right")


def _judge(rows: list[Row], size: Size) -> Findings:
    lines, checks = [], []
    for row in rows:
        paper = PAPER[row["trained_rounds"]]
        name = f"{row['trained_rounds']} rounds"
        lines.append([f"trained with {name}", *(f"{row['accuracy'][str(r)]:.2%}" for r in paper)])
        lines.append(["the paper, length 1,024", *(f"{share:.1%}" for share in paper.values())])
        for rounds, share in paper.items():
            measured = row["accuracy"][str(rounds)]
            checks.append(
                Check(
                    f"trained with {name}, evaluated with {rounds}: within a point of {share:.1%}",
                    f"{measured:.2%}",
                    measured >= share - _TOLERANCE,
                )
            )
    columns = ["accuracy, rounds in evaluation", *(str(rounds) for rounds in PAPER[4])]
    title = f"Duplication task (table 2), length {rows[0]['length']:,}"
    return Findings(title, rows, markdown_table(columns, lines), checks, lambda a: _draw(rows, a))


def _draw(rows: list[Row], axes: "Axes") -> None:
    for row in rows:
        trained = row["trained_rounds"]
        rounds = [int(r) for r in row["accuracy"]]
        label = f"trained with {trained} rounds"
        (line,) = axes.plot(rounds, list(row["accuracy"].values()), "o-", label=label)
        paper = list(PAPER[trained].values())
        axes.plot(rounds, paper, "x:", color=line.get_color(), label=f"{label}, paper")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="rounds in evaluation", ylabel="accuracy")
