"""From a folder of pictures to a model that draws, by the commands."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reformer.config import ReformerConfig
from reformer.data.image_tokens import with_image_shape
from reformer.models.language import ReformerForCausalLM
from reformer.tasks.image import ImageValidation
from tests.cli.conftest import call

SMALL = (
    "--task", "image", "--hidden-size", 24, "--feed-forward-size", 32, "--num-heads", 2,
    "--head-size", 8, "--steps", 60, "--warmup-steps", 5, "--learning-rate", 0.02,
    "--evaluate-every", 60,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 6 x 6 whose columns are all black or all white."""
    path = tmp_path_factory.mktemp("pictures")
    for number in range(64):
        columns = [255 * (number >> column & 1) for column in range(6)]
        Image.fromarray(np.array([columns] * 6, np.uint8)).save(path / f"{number}.png")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    answer = call("train", folder, *SMALL, "--out", path)
    assert answer.code == 0, answer.err
    assert "61 grey pictures of 6 x 6 pixels" in answer.out
    return path


def test_what_a_picture_repeats_is_learned(run: Path, folder: Path) -> None:
    """Six columns in doubt make 6 bits of 36 values; 1 bit each is what black or white costs."""
    answer = call("evaluate", run, "--json")
    assert answer.code == 0, answer.err
    bits = json.loads(answer.out)["bits_per_dimension"]
    assert 6 / 36 * 0.9 < bits < 1.0
    everything = json.loads(call("evaluate", run, folder, "--json").out)["bits_per_dimension"]
    assert 6 / 36 <= everything < 1.0


def test_a_model_that_knows_nothing_pays_for_every_value() -> None:
    config = with_image_shape(ReformerConfig(hidden_size=12, num_heads=1, head_size=4), (2, 2, 3))
    model = ReformerForCausalLM(config)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    pictures = np.arange(60, dtype=np.uint8).reshape(5, 2, 2, 3)
    validation = ImageValidation(pictures, part_tokens=30)
    for whole in (True, False):
        measured = validation.measure(model, whole=whole)
        assert validation.cost(measured) == pytest.approx(math.log2(257), abs=1e-5)


def test_a_run_draws_new_pictures(run: Path, tmp_path: Path) -> None:
    answer = call("draw", run, "--samples", 4, "--seed", 1)
    assert answer.code == 0, answer.err
    assert answer.out.strip() == str(run / "drawing-1.png")
    with Image.open(run / "drawing-1.png") as image:
        assert (image.size, image.mode) == ((18, 18), "L")
    assert call("draw", run, "--samples", 4, "--seed", 1, "--out", tmp_path / "b.png").code == 0
    assert (tmp_path / "b.png").read_bytes() == (run / "drawing-1.png").read_bytes()


def test_a_completion_keeps_what_it_was_given(run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    files = [folder / "9.png", folder / "34.png"]
    answer = call("draw", run, *files, "--samples", 2, "--keep", 0.34, "--out", out)
    assert answer.code == 0, answer.err
    with Image.open(out) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (18, 34)
    for line, number in enumerate((9, 34)):
        columns = [255 * (number >> column & 1) for column in range(6)]
        row = 2 + 8 * line
        assert pixels[row : row + 6, 2:8].tolist() == [columns] * 6
        assert (pixels[row + 2 : row + 6, 10:16] == 128).all()
        for left in (10, 18, 26):
            assert pixels[row : row + 2, left : left + 6].tolist() == [columns] * 2


def test_mistakes_are_one_sentence(run: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"precious")
    (tmp_path / "text.txt").write_text("no picture")
    for words, reason in (
        (("train", "--task", "image"), "name a folder"),
        (("train", tmp_path / "text.txt", "--task", "image"), "text.txt is not a picture"),
        (("train", folder, *SMALL, "--image-shape", 8, 8, 2), "image_shape"),
        (("train", folder, *SMALL, "--tokenizer", "t.json"), "needs no --tokenizer"),
        (("draw", run, "--out", tmp_path / "photo.png"), "never overwritten"),
        (("draw", run, folder, "--keep", 1.5), "keep is 1.5"),
        (("draw", run, "--samples", 0), "samples is 0"),
        (("draw", run, tmp_path / "text.txt"), "text.txt is not a picture"),
        (("evaluate", run, tmp_path / "text.txt"), "text.txt is not a picture"),
    ):
        out = () if "--out" in words or words[0] != "train" else ("--out", tmp_path / "new")
        answer = call(*words, *out)
        assert (answer.code, answer.out) == (2, "")
        assert reason in answer.err and len(answer.err.splitlines()) == 1
    assert (tmp_path / "photo.png").read_bytes() == b"precious"
    assert not (tmp_path / "new").exists()


def test_pictures_of_any_size_are_scaled_on_request(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = call("train", folder, *SMALL, "--steps", 1, "--image-shape", 3, 4, 3, "--out", run)
    assert answer.code == 0, answer.err
    config = ReformerForCausalLM.from_pretrained(run).config
    assert (config.axial_shape, config.max_length) == ((4, 4, 3), 37)
    again = call("train", "--resume", "--out", run, "--steps", 2)
    assert again.code == 0, again.err
