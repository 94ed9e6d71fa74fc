"""Needles found from ever further away: LSH beside exact attention.

One model learns ``data.recall`` on short sequences and goes on to longer ones, a few steps each;
its weights do not depend on the length, and the number of buckets follows it. Exact attention
takes the same course. It starts where half of a sequence is needles: begun at 128 tokens, both
kinds learn to look up some needles, guess the others by exclusion, and are stuck at 78 %.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reformer.config import LSH, Full, Layer, Local, ReformerConfig
from reformer.data.recall import VOCAB_SIZE, RecallSource
from reformer.models.language import ReformerForCausalLM
from reformer.ops.hashing import default_num_buckets
from reformer.ops.randomness import derive_seed
from reformer.ops.sliced import IGNORED_LABEL
from reformer.reproduce.findings import Check, Findings, Row, Say, Size, markdown_table
from reformer.reproduce.journal import Journal
from reformer.reproduce.short_run import train_briefly
from reformer.reproduce.variants import ROTARY
from reformer.settings import TrainingSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST = 16384
_HELD_OUT = 1
_GOAL = 0.95
_KINDS = ("exact", "lsh")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Some steps at one length."""

    length: int
    batch_size: int
    steps: int
    learning_rate: float


STAGES = (
    Stage(32, 32, 240, 3e-3),
    Stage(128, 16, 60, 2e-3),
    Stage(1024, 2, 600, 2e-3),
    Stage(4096, 1, 80, 1e-3),
    Stage(_LONGEST, 1, 15, 3e-4),
)
QUICK_STAGES = (*STAGES[:2], dataclasses.replace(STAGES[2], steps=200))
_MORE_ROUNDS = 8
"""In evaluation, beside the rounds of training."""


def measure(size: Size, folder: Path, say: Say) -> Findings:
    """Take both models through the stages, judging each at its end."""
    stages = STAGES if size == "full" else QUICK_STAGES
    journal = Journal(folder / "retrieval.jsonl")
    rows = []
    for kind in _KINDS:
        for number, stage in enumerate(stages):
            key = {"attention": kind, **dataclasses.asdict(stage)}
            row = journal.find(key)
            if row is None:
                row = key | _learn(kind, stages, number, folder)
                journal.add(row)
                say(f"{kind}, {stage.length:,} tokens: {row['accuracy']:.1%} right")
            rows.append(row)
    return _judge(rows, [stage.length for stage in stages])


def config(kind: str, length: int) -> ReformerConfig:
    """Two layers, local and far-sighted; always the same weights, whatever the length."""
    layer = LSH(values="next")
    count = default_num_buckets(length, layer.window_length)
    far: Layer = Full() if kind == "exact" else dataclasses.replace(layer, num_buckets=count)
    return ReformerConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        feed_forward_size=128,
        num_heads=2,
        head_size=64,
        max_length=_LONGEST,
        layers=(Local(window_length=16, rotary_base=ROTARY), far),
        position_scale=0.03,
    )


def _learn(kind: str, stages: Sequence[Stage], number: int, folder: Path) -> Row:
    stage = stages[number]
    model = ReformerForCausalLM(config(kind, stage.length))
    if number > 0:
        before = ReformerForCausalLM.from_pretrained(_place(folder, kind, stages[number - 1]))
        model.load_state_dict(before.state_dict())
    untrained = accuracy(model, stage.length)
    settings = TrainingSettings(
        steps=stage.steps,
        batch_size=stage.batch_size,
        learning_rate=stage.learning_rate,
        warmup_steps=min(30, stage.steps // 4),
        weight_decay=0.0,
    )
    source = RecallSource(stage.length, derive_seed(number))
    outcome = train_briefly(model, source, settings, lambda step, loss: None)
    model.save_pretrained(_place(folder, kind, stage))
    reached = accuracy(model, stage.length)
    more = ReformerForCausalLM(model.config.with_num_hashes(_MORE_ROUNDS))
    more.load_state_dict(model.state_dict())
    return {
        "accuracy_before": untrained,
        "accuracy": reached,
        "accuracy_more_rounds": accuracy(more, stage.length) if kind == "lsh" else None,
        "seconds_per_step": outcome.seconds_per_step,
    }


def _place(folder: Path, kind: str, stage: Stage) -> Path:
    return folder / f"retrieval-{kind}-{stage.length}"


def accuracy(model: ReformerForCausalLM, length: int) -> float:
    """Share of right answers on at least sixteen sequences that training never sees."""
    model.eval()
    source = RecallSource(length, derive_seed(_HELD_OUT, length))
    right = total = 0
    for number in range(max(16, 32768 // length)):
        batch = source.batch(number, 1)
        labels = batch["labels"][:, 1:]
        with torch.no_grad():
            predicted = model(batch["input_ids"]).logits[:, :-1].argmax(dim=-1)
        counted = labels != IGNORED_LABEL
        right += int(((predicted == labels) & counted).sum())
        total += int(counted.sum())
    return right / total


def _judge(rows: list[Row], lengths: list[int]) -> Findings:
    checks, lines = [], []
    for length in lengths:
        exact, lsh = (
            next(r for r in rows if r["length"] == length and r["attention"] == kind)
            for kind in _KINDS
        )
        for row in (exact, lsh):
            shares = [row[f"accuracy{what}"] for what in ("_before", "", "_more_rounds")]
            cells = ["" if share is None else f"{share:.1%}" for share in shares]
            lines.append([row["attention"], f"{length:,}", str(row["steps"]), *cells])
        for name, share in (
            ("exact attention, the yardstick,", exact["accuracy"]),
            ("LSH", lsh["accuracy"]),
            (f"LSH with {_MORE_ROUNDS} rounds in evaluation", lsh["accuracy_more_rounds"]),
        ):
            claim = f"{length:,} tokens: {name} finds 95 %"
            checks.append(Check(claim, f"{share:.1%}", share >= _GOAL))
    columns = ["attention", "tokens", "steps at this length", "before them", "after"]
    columns.append(f"with {_MORE_ROUNDS} rounds")
    title = "Needles found in filler, by length"
    return Findings(title, rows, markdown_table(columns, lines), checks, lambda a: _draw(rows, a))


def _draw(rows: list[Row], axes: "Axes") -> None:
    for kind in _KINDS:
        own = [row for row in rows if row["attention"] == kind]
        lengths = [row["length"] for row in own]
        axes.plot(lengths, [row["accuracy"] for row in own], "o-", label=kind)
        before = [row["accuracy_before"] for row in own]
        axes.plot(lengths, before, "x:", label=f"{kind}, before training at this length")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="tokens", ylabel="share of needles found", ylim=(0, 1.02))
