"""A run small enough to train many times over."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reformer.config import LSH, Local, ReformerConfig
from reformer.data.files import shipped_novel
from reformer.data.tokenizer import ByteTokenizer
from reformer.settings import TrainingSettings
from reformer.training.run import Run, RunDescription, create_run

CONFIG = ReformerConfig(
    hidden_size=16,
    feed_forward_size=32,
    num_heads=2,
    head_size=8,
    max_length=32,
    layers=(Local(window_length=8), LSH(num_hashes=2, window_length=8)),
    dropout=0.1,
)
SETTINGS = TrainingSettings(
    steps=8,
    batch_size=2,
    learning_rate=0.01,
    warmup_steps=2,
    evaluate_every=3,
    evaluate_tokens=100,
    save_every=4,
)

MakeRun = Callable[..., Run]


class Listener:
    """A Reporter that remembers, and can interfere."""

    def __init__(self, on_step: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.sentences: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self._on_step = on_step

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def step(self, row: dict[str, Any], tokens_seen: int) -> None:
        self.rows.append(row)
        if self._on_step is not None:
            self._on_step(row)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Some real text."""
    path = tmp_path / "text.txt"
    path.write_bytes(shipped_novel().read_bytes()[:8000])
    return path


@pytest.fixture
def make_run(tmp_path: Path, text: Path) -> MakeRun:
    """Makes a new run folder: ``make_run("name", steps=…, config=…)``."""

    def make(name: str, *, config: ReformerConfig = CONFIG, **settings: Any) -> Run:
        description = RunDescription(
            preset="test",
            config=config,
            settings=replace(SETTINGS, **settings),
            inputs=() if settings.get("task") == "copy" else (str(text),),
        )
        return create_run(tmp_path / name, description, ByteTokenizer())

    return make
