"""Small runs for real processes to train, and the run that nothing disturbs."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from reformer.config import ReformerConfig
from reformer.data.files import shipped_novel
from reformer.data.tokenizer import ByteTokenizer
from reformer.training.metrics import read_metrics
from reformer.training.run import Run, RunDescription, create_run
from tests.training.conftest import CONFIG, SETTINGS

STEPS = 40


@pytest.fixture(scope="session")
def server() -> None:
    """Start the server that children are forked from; it finds modules where this process does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), *sys.path])
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few pages of real text."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(shipped_novel().read_bytes()[:8000])
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at the end: thousands of trials would fill a disk."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def new_run(path: Path, pages: Path, *, config: ReformerConfig = CONFIG, **settings: Any) -> Run:
    """A run of 40 steps that saves after each, unless told otherwise."""
    chosen = {"steps": STEPS, "save_every": 1, "evaluate_every": 7, **settings}
    description = RunDescription(
        preset="test", config=config, settings=replace(SETTINGS, **chosen), inputs=(str(pages),)
    )
    return create_run(path, description, ByteTokenizer())


def outcome(run: Path) -> dict[str, Any]:
    """All that training leaves: weights, moments and state of the last step, and the rows."""
    (folder,) = run.joinpath("checkpoints").glob(f"step-{STEPS:06d}")
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    rows = read_metrics(run / "metrics.jsonl")
    return {
        "best": run.joinpath("model.safetensors").read_bytes(),
        **{name: folder.joinpath(name).read_bytes() for name in names},
        "rows": [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows],
    }
