"""The power may fail between any two calls to the system: what was saved is there."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from reformer.data.tokenizer import ByteTokenizer
from reformer.models.language import ReformerForCausalLM
from reformer.models.store import ModelError
from reformer.training.checkpoint import load_latest, save_checkpoint
from reformer.training.run import RunDescription, create_run, open_run
from tests.models.small import small_config
from tests.training.conftest import CONFIG, SETTINGS
from tests.trust.power import Disk
from tests.trust.tiers import record, tiers


class _Failures:
    """Lets the power fail at each moment, a number of times, and checks what is left."""

    def __init__(self, scratch: Path, count: int, check: Callable[[Path], None]) -> None:
        self.folder, self.count, self.check = scratch / "after", count, check
        self.total = 0

    def __call__(self, disk: Disk) -> None:
        for _ in range(self.count):
            self.folder.mkdir()
            disk.after_power_failure(self.folder, random.Random(self.total))
            self.check(self.folder)
            shutil.rmtree(self.folder)
            self.total += 1


@tiers(small=2, middle=20, full=200)
def test_checkpoints_that_were_saved_are_there(scratch: Path, count: int) -> None:
    root, saved = scratch / "disk", 0
    root.mkdir()

    def check(folder: Path) -> None:
        found = load_latest(folder / "run" / "checkpoints", lambda _: None)
        step = found.step if found else 0
        assert saved <= step <= saved + 1
        if found is not None:
            assert bool((found.tensors("model.safetensors")["a"] == step).all())
            assert found.state == {"step": step}

    disk, failures = Disk(root), _Failures(scratch, count, check)
    with disk.recorded(failures):
        for step in (1, 2, 3, 3, 4):
            tensors = {"model.safetensors": {"a": torch.full((50,), float(step))}}
            save_checkpoint(
                root / "run" / "checkpoints", step, {"step": step}, tensors, keep_last=1
            )
            saved = step
            disk.moment(failures)
    record("T6", "power failures while checkpoints are saved", failures.total, lost=0)


@tiers(small=2, middle=20, full=200)
def test_a_model_is_the_old_one_or_the_new_one(scratch: Path, count: int) -> None:
    """Saved over one another, with other widths: never weights of one and config of another."""
    root = scratch / "disk"
    root.mkdir()
    models = [ReformerForCausalLM(small_config(1, feed_forward_size=8 * n)) for n in (1, 2, 3)]
    saved = -1

    def check(folder: Path) -> None:
        try:
            found = ReformerForCausalLM.from_pretrained(folder / "model")
        except ModelError:
            if saved < 0 and not (folder / "model" / "config.json").exists():
                return
            raise
        index = found.config.feed_forward_size // 8 - 1
        assert index in (saved, saved + 1)
        for name, tensor in models[index].state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor)

    disk, failures = Disk(root), _Failures(scratch, count, check)
    with disk.recorded(failures):
        for index, model in enumerate(models):
            model.save_pretrained(root / "model")
            saved = index
            disk.moment(failures)
    record("T6", "power failures while models are saved over one another", failures.total, lost=0)


@tiers(small=2, middle=20, full=200)
def test_a_run_folder_is_whole_or_not_there(scratch: Path, count: int) -> None:
    root = scratch / "disk"
    root.mkdir()
    first = RunDescription("test", CONFIG, SETTINGS)
    second = replace(first, settings=replace(SETTINGS, steps=99))
    expected: tuple[RunDescription | None, ...] = (None, first)

    def check(folder: Path) -> None:
        path = folder / "runs" / "run"
        assert (open_run(path).description if path.exists() else None) in expected

    disk, failures = Disk(root), _Failures(scratch, count, check)
    with disk.recorded(failures):
        run = create_run(root / "runs" / "run", first, ByteTokenizer())
        expected = (first,)
        disk.moment(failures)
        expected = (first, second)
        run.describe(second)
        expected = (second,)
        disk.moment(failures)
    record("T6", "power failures while a run folder is made and described", failures.total, lost=0)


def test_the_disk_model_notices_what_is_not_flushed(tmp_path: Path) -> None:
    """A renamed file without a flush may be empty; one without a folder's flush may be gone."""
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(root)
    found = set()
    with disk.recorded(lambda _: None):
        (root / "a.tmp").write_text("whole")
        (root / "a.tmp").rename(root / "a")
    for seed in range(200):
        after = tmp_path / str(seed)
        after.mkdir()
        disk.after_power_failure(after, random.Random(seed))
        path = after / "a"
        found.add(path.read_text() if path.exists() else None)
    assert {"whole", "", None} <= found
