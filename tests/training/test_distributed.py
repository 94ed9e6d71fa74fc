"""Several processes train the run that one process trains; real processes, started by torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reformer.config import ConfigError
from reformer.data.files import shipped_novel
from reformer.data.tokenizer import ByteTokenizer
from reformer.models.language import ReformerForCausalLM
from reformer.tasks import prepare_task
from reformer.training.checkpoint import load_latest
from reformer.training.distributed import joined
from reformer.training.loop import train
from reformer.training.metrics import read_metrics
from reformer.training.run import Run, RunDescription, create_run, open_run, shared_by
from tests.training.conftest import CONFIG, SETTINGS, Listener
from tests.training.trainers import SIGNALLED, SPOILT

FIXED = replace(CONFIG, dropout=0.0, hash_seed=1)
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
]  # fmt: skip
Seen = list[dict[str, Any]]


def _environment() -> dict[str, str]:
    path = os.pathsep.join([os.getcwd(), *(entry for entry in sys.path if entry)])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def _new(
    root: Path, name: str, *, config: Any = CONFIG, processes: int = 2, **settings: Any
) -> Run:
    chosen = {"steps": 6, "batch_size": 1, "save_every": 3, **settings}
    description = RunDescription(
        preset="test",
        config=config,
        settings=replace(SETTINGS, **chosen),
        inputs=(str(root / "text.txt"),),
        processes=processes,
    )
    return create_run(root / "runs" / name, description, ByteTokenizer())


def _train_alone(run: Run) -> Run:
    run, task = prepare_task(run, length_fixed=True, say=pytest.fail)
    train(run, task, Listener(), torch.device("cpu"))
    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that two processes have trained, beside those that one process has."""
    root = tmp_path_factory.mktemp("root")
    (root / "text.txt").write_bytes(shipped_novel().read_bytes()[:8000])
    _train_alone(_new(root, "alone", processes=1, accumulation_steps=2))
    _train_alone(_new(root, "alone-batch", config=FIXED, processes=1, batch_size=2))
    was_one = _new(root, "was-one", processes=1, accumulation_steps=2, steps=3)
    _train_alone(was_one)
    for name in ("replicated", "sharded", "stopped", "stopped-sharded", "spoilt", "spoilt-sharded"):
        _new(root, name)
    _train_alone(_new(root, "alone-narrow", processes=1, accumulation_steps=2, moments="bfloat16"))
    for name in ("narrow", "narrow-sharded"):
        _new(root, name, moments="bfloat16")
    _new(root, "to-be-one", steps=6)
    _new(root, "doubled", config=FIXED)
    command = [*TORCHRUN, "-m", "tests.training.trainers", str(root)]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def seen(root: Path) -> Seen:
    """What each process saw."""
    return [json.loads((root / f"process-{rank}.json").read_text()) for rank in range(2)]


def _assert_equal_to_rounding(run: Path, other: Path) -> None:
    rows, others = read_metrics(run / "metrics.jsonl"), read_metrics(other / "metrics.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in others] == list(range(1, 7))
    for row, expected in zip(rows, others, strict=True):
        for values in (row, expected):
            del values["tokens_per_second"]
        assert row == pytest.approx(expected, rel=1e-5)
    for name in ("model.safetensors", "optimizer.safetensors"):
        found, expected = (_tensors(path, name) for path in (run, other))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def _tensors(run: Path, name: str) -> dict[str, torch.Tensor]:
    checkpoint = load_latest(run / "checkpoints", pytest.fail)
    assert checkpoint is not None and checkpoint.step == 6
    return checkpoint.tensors(name)


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_two_processes_are_one_with_twice_the_passes(root: Path, kind: str) -> None:
    """Dropout masks and hash rotations are the same as well."""
    _assert_equal_to_rounding(root / "runs" / kind, root / "runs" / "alone")


def test_two_processes_are_one_with_twice_the_batch(root: Path) -> None:
    _assert_equal_to_rounding(root / "runs" / "doubled", root / "runs" / "alone-batch")


@pytest.mark.parametrize("kind", ["narrow", "narrow-sharded"])
def test_moments_in_bfloat16_are_those_of_one_process_but_for_their_rounding(
    root: Path, kind: str
) -> None:
    """Parts of a tensor are rounded by other draws than the whole."""
    runs = [root / "runs" / name for name in (kind, "alone-narrow")]
    rows, others = (read_metrics(run / "metrics.jsonl") for run in runs)
    bits = [row["train_bits_per_byte"] for row in rows]
    assert bits == pytest.approx([row["train_bits_per_byte"] for row in others], rel=2e-3)
    moments = _tensors(runs[0], "optimizer.safetensors")
    assert {tensor.dtype for tensor in moments.values()} == {torch.bfloat16}


def test_parts_go_on_in_one_process(root: Path) -> None:
    run = open_run(root / "runs" / "to-be-one")
    _train_alone(replace(run, description=shared_by(run.description, 1)))
    _assert_equal_to_rounding(run.path, root / "runs" / "alone")


def test_one_process_goes_on_in_parts(root: Path) -> None:
    _assert_equal_to_rounding(root / "runs" / "was-one", root / "runs" / "alone")


def test_the_best_weights_of_parts_are_a_whole_model(root: Path) -> None:
    model = ReformerForCausalLM.from_pretrained(root / "runs" / "sharded")
    other = ReformerForCausalLM.from_pretrained(root / "runs" / "alone")
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["stopped", "stopped-sharded"])
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    root: Path, seen: Seen, kind: str
) -> None:
    assert [process[kind]["exit_code"] for process in seen] == [143, 143]
    assert [process[kind]["step"] for process in seen] == [SIGNALLED + 1] * 2


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(root: Path) -> None:
    runs = root / "runs"
    for name in ("model.safetensors", "optimizer.safetensors"):
        step = Path("checkpoints", "step-000006", name)
        stopped, straight = runs / "stopped" / step, runs / "replicated" / step
        assert stopped.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize("kind", ["spoilt", "spoilt-sharded"])
def test_a_loss_that_fails_in_one_process_ends_all_with_everything_saved(
    root: Path, seen: Seen, kind: str
) -> None:
    step = SPOILT // 2 + 1
    for process in seen:
        assert f"training stopped in step {step}: the loss is nan" in process[kind]["error"]
    checkpoint = load_latest(root / "runs" / kind / "checkpoints", pytest.fail)
    assert checkpoint is not None and checkpoint.step == step - 1


def test_processes_that_cannot_share_a_step_evenly_are_refused(root: Path) -> None:
    description = open_run(root / "runs" / "replicated").description
    assert shared_by(description, 1).settings.accumulation_steps == 2
    with pytest.raises(ConfigError, match=r"2 sequences per step, 1 at a time: 3 processes"):
        shared_by(description, 3)


def test_parts_need_torchrun() -> None:
    with pytest.raises(ConfigError, match="torchrun"), joined(torch.device("cpu"), sharded=True):
        pass


# ---------------------------------------------------------------- the command

WORDS = [
    "--preset", "tiny", "--length", "32", "--batch-size", "1", "--hidden-size", "16",
    "--feed-forward-size", "32", "--evaluate-tokens", "200", "--save-every", "1000",
]  # fmt: skip


def _start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [*TORCHRUN, "-m", "reformer", "train", *WORDS, *words]
    return subprocess.Popen(
        command, cwd=folder, env=_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def _wait_for_rows(run: Path, count: int) -> None:
    while len(read_metrics(run / "metrics.jsonl")) < count:
        time.sleep(0.1)


def _workers(launcher: int) -> list[int]:
    """The processes that torchrun has started, in order."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return sorted(int(child) for child in children)


@pytest.mark.slow
def test_torchrun_passes_a_signal_on_and_the_run_can_be_resumed_by_one_process(
    tmp_path: Path,
) -> None:
    launcher = _start(tmp_path, "--steps", "100000", "--out", "run")
    _wait_for_rows(tmp_path / "run", 3)
    launcher.send_signal(signal.SIGTERM)
    output = launcher.communicate(timeout=300)[0]
    assert output.count("Everything is saved") == 1, output
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    checkpoint = load_latest(tmp_path / "run" / "checkpoints", pytest.fail)
    assert checkpoint is not None and checkpoint.step >= rows[-1]["step"]
    last = checkpoint.step + 2
    words = ["-m", "reformer", "train", "--resume", "--out", "run", "--steps", str(last)]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, last + 1))


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_one_sentence(tmp_path: Path) -> None:
    launcher = _start(tmp_path, "--steps", "100000", "--out", "run")
    _wait_for_rows(tmp_path / "run", 3)
    os.kill(_workers(launcher.pid)[-1], signal.SIGKILL)
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode != 0
    assert output.count("reformer: another process of this run has ended") == 1, output
    assert "reformer/training" not in output, output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "0"], "steps is 0"),
        (["missing.txt", "--out", "run"], "missing.txt"),
        (["--gradients", "freed", "--out", "run"], "gradients is 'freed': each of the 2 processes"),
    ],
)
def test_bad_input_is_said_once(tmp_path: Path, words: list[str], sentence: str) -> None:
    launcher = _start(tmp_path, *words)
    output = launcher.communicate(timeout=300)[0]
    assert launcher.returncode != 0
    assert output.count("reformer: ") + output.count("reformer train: ") == 1, output
    assert sentence in output
    assert not (tmp_path / "run").exists()
