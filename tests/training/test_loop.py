"""A run that stops and goes on is the run that never stopped; failures cost nothing."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reformer.models.language import ReformerForCausalLM
from reformer.tasks import prepare_task
from reformer.training.checkpoint import load_latest
from reformer.training.loop import Outcome, TrainingError, TrainingState, train, update
from reformer.training.metrics import read_metrics
from reformer.training.optim import build_optimizer
from reformer.training.run import Run
from tests.training.conftest import CONFIG, SETTINGS, Listener, MakeRun

CPU = torch.device("cpu")
TIMES = ("tokens_per_second",)


def _train(run: Run, listener: Listener | None = None) -> Outcome:
    listener = listener or Listener()
    run, task = prepare_task(run, length_fixed=True, say=listener.say)
    return train(run, task, listener, CPU)


def _rows(run: Run) -> list[dict[str, Any]]:
    rows = read_metrics(run.metrics)
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def _assert_same_run(first: Run, second: Run) -> None:
    assert _rows(first) == _rows(second)
    assert first.path.joinpath("model.safetensors").read_bytes() == (
        second.path.joinpath("model.safetensors").read_bytes()
    )
    step = f"step-{first.description.settings.steps:06d}"
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        files = [run.checkpoints / step / name for run in (first, second)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def _signal_at(step: int, number: signal.Signals) -> Callable[[dict[str, Any]], None]:
    def send(row: dict[str, Any]) -> None:
        if row["step"] == step:
            os.kill(os.getpid(), number)

    return send


def test_a_run_learns_and_leaves_everything_behind(make_run: MakeRun) -> None:
    run = make_run("run", steps=30, learning_rate=0.02)
    outcome = _train(run)
    rows = read_metrics(run.metrics)
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert all(row.keys() >= {"train_bits_per_byte", "tokens_per_second"} for row in rows)
    validated = {
        row["step"]: row["validation_bits_per_byte"]
        for row in rows
        if "validation_bits_per_byte" in row
    }
    assert set(validated) == set(range(3, 31, 3))
    assert validated[30] < validated[3] - 0.5
    assert outcome.best_step == min(validated, key=validated.__getitem__)
    assert list(run.tensorboard.glob("events.*"))
    assert {path.name for path in run.checkpoints.iterdir()} == {
        "step-000028",
        "step-000030",
        "latest",
    }
    assert ReformerForCausalLM.from_pretrained(run.path).config == run.description.config


@pytest.mark.parametrize("stopped_after", [1, 2, 3, 4, 7])
def test_a_resumed_run_is_the_straight_run(make_run: MakeRun, stopped_after: int) -> None:
    straight, resumed = make_run("straight"), make_run("resumed")
    assert _train(straight).exit_code == 0
    stopped = _train(resumed, Listener(_signal_at(stopped_after, signal.SIGINT)))
    assert stopped.exit_code == 130
    assert stopped.step == stopped_after + 1  # the step that had begun was finished
    assert _train(resumed).exit_code == 0
    _assert_same_run(straight, resumed)


def test_sigterm_saves_and_says_143(make_run: MakeRun) -> None:
    run = make_run("run")
    assert _train(run, Listener(_signal_at(2, signal.SIGTERM))).exit_code == 143
    checkpoint = load_latest(run.checkpoints, print)
    assert checkpoint is not None and checkpoint.step == 3
    assert run.has_model


class _KilledError(Exception):
    pass


def _die_at(step: int) -> Callable[[dict[str, Any]], None]:
    def die(row: dict[str, Any]) -> None:
        if row["step"] == step:
            raise _KilledError

    return die


def test_a_run_that_died_repeats_what_was_not_saved(make_run: MakeRun) -> None:
    straight, died = make_run("straight"), make_run("died")
    _train(straight)
    for step in (3, 7):
        with pytest.raises(_KilledError):
            _train(died, Listener(_die_at(step)))
    with open(died.metrics, "a") as file:
        file.write('{"step": 8, "train_b')
    _train(died)
    _assert_same_run(straight, died)


def test_a_damaged_checkpoint_falls_back_and_the_run_ends_the_same(make_run: MakeRun) -> None:
    straight, damaged = make_run("straight"), make_run("damaged")
    _train(straight)
    _train(damaged)
    path = damaged.checkpoints / "step-000008" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    listener = Listener()
    _train(damaged, listener)
    assert "step-000008 is damaged" in listener.sentences[0]
    assert [row["step"] for row in listener.rows] == [5, 6, 7, 8]
    _assert_same_run(straight, damaged)


def test_a_finished_run_can_be_made_longer(make_run: MakeRun) -> None:
    run = make_run("run")
    _train(run)
    longer = run.describe(replace(run.description, settings=replace(SETTINGS, steps=10)))
    listener = Listener()
    assert _train(longer, listener).step == 10
    assert [row["step"] for row in listener.rows] == [9, 10]
    assert [row["step"] for row in _rows(longer)] == list(range(1, 11))


def test_the_users_random_numbers_are_left_alone(make_run: MakeRun) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    _train(make_run("run"))
    assert torch.equal(torch.get_rng_state(), before)


def test_accumulated_gradients_are_those_of_the_larger_batch(make_run: MakeRun) -> None:
    config = replace(CONFIG, dropout=0.0, hash_seed=1)
    _, task = prepare_task(make_run("run", config=config), length_fixed=True, say=print)
    results = []
    for batch_size, accumulation_steps in ((6, 1), (2, 3)):
        model = ReformerForCausalLM(config).train()
        settings = replace(SETTINGS, batch_size=batch_size, accumulation_steps=accumulation_steps)
        state = TrainingState(model, build_optimizer(model, settings))
        row = update(state, task.source, settings)
        results.append((row["train_bits_per_byte"], row["gradient_norm"]))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_bfloat16_learns_too(make_run: MakeRun) -> None:
    run = make_run("run", precision="bfloat16", steps=20, learning_rate=0.02)
    _train(run)
    rows = read_metrics(run.metrics)
    assert rows[-1]["train_bits_per_byte"] < rows[0]["train_bits_per_byte"] - 0.5


def test_the_copy_task_reports_its_accuracy(make_run: MakeRun) -> None:
    config = replace(CONFIG, vocab_size=6, max_length=8)
    outcome = _train(make_run("run", config=config, task="copy"))
    assert 0.0 <= outcome.metrics["validation_accuracy"] <= 1.0
    assert outcome.metrics["validation_bits_per_byte"] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named_and_never_saved(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    run = make_run("run")

    def spoil(row: dict[str, Any]) -> None:
        if row["step"] == 5:
            with torch.no_grad():
                models[0].head.weight[3, 2] = value

    models: list[ReformerForCausalLM] = []
    original = ReformerForCausalLM.__init__

    def remember(self: ReformerForCausalLM, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        models.append(self)

    monkeypatch.setattr(ReformerForCausalLM, "__init__", remember)
    with pytest.raises(TrainingError, match=r"step 6: the weight head\.weight"):
        _train(run, Listener(spoil))
    checkpoint = load_latest(run.checkpoints, print)
    assert checkpoint is not None and checkpoint.step == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_weights_before_it(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    straight, spoilt = make_run("straight"), make_run("spoilt")
    _train(straight)
    forward = ReformerForCausalLM.forward

    def spoil(self: ReformerForCausalLM, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        return out._replace(loss=out.loss * value) if kwargs.get("draw") == 5 else out

    with monkeypatch.context() as patch:
        patch.setattr(ReformerForCausalLM, "forward", spoil)
        with pytest.raises(TrainingError, match="step 6: the loss is"):
            _train(spoilt)
    checkpoint = load_latest(spoilt.checkpoints, print)
    assert checkpoint is not None and checkpoint.step == 5
    _train(spoilt)
    _assert_same_run(straight, spoilt)


def test_metrics_are_one_json_object_a_line(make_run: MakeRun) -> None:
    run = make_run("run")
    _train(run)
    lines = Path(run.metrics).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))
