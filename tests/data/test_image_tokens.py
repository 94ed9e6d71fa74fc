"""Pictures become sequences and come back; what is kept for validation is not learned."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reformer.config import ReformerConfig
from reformer.data.files import InputError
from reformer.data.image_tokens import (
    START,
    ImageSource,
    first_shape,
    image_shape,
    prepare_images,
    stored_pictures,
    to_picture,
    to_tokens,
    with_image_shape,
)
from reformer.data.images import ImageShape, Picture

SHAPE = (4, 3, 3)


def _pictures(count: int, shape: ImageShape = SHAPE) -> Picture:
    """Pictures whose every value is their number."""
    numbers = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return np.broadcast_to(numbers, (count, *shape))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty-three pictures."""
    path = tmp_path / "pictures"
    path.mkdir()
    for number, picture in enumerate(_pictures(43)):
        Image.fromarray(picture).save(path / f"{number:02}.png")
    return path


def test_tokens_and_back() -> None:
    picture = np.arange(math.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
    tokens = to_tokens(picture)
    assert tokens == [START, *range(math.prod(SHAPE))]
    np.testing.assert_array_equal(to_picture(tokens, SHAPE), picture)


@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 64, 3), (1, 1, 1)])
def test_a_config_knows_its_pictures(shape: ImageShape) -> None:
    config = with_image_shape(ReformerConfig(), shape)
    assert image_shape(config) == shape
    assert config.max_length == math.prod(shape) + 1


def test_a_text_model_knows_none() -> None:
    with pytest.raises(InputError, match="not trained on pictures"):
        image_shape(ReformerConfig())


def test_every_twentieth_picture_is_for_validation(folder: Path, tmp_path: Path) -> None:
    stores = prepare_images(tmp_path / "data", [folder], None, SHAPE, scale=False)
    train, held_out = (stored_pictures(store, SHAPE) for store in stores)
    assert held_out[:, 0, 0, 0].tolist() == [19, 39]
    together = sorted([*train[:, 0, 0, 0].tolist(), 19, 39])
    assert together == list(range(43))
    source = ImageSource(stores[0], SHAPE, seed=0)
    drawn = source.batch(0, 2000)["input_ids"]
    assert (drawn[:, 0] == START).all()
    assert set(drawn[:, 1].tolist()) == set(range(43)) - {19, 39}
    assert (source.batch(7, 1)["input_ids"] == drawn[7:8]).all()


def test_two_pictures_are_enough_and_one_is_not(folder: Path, tmp_path: Path) -> None:
    for path in sorted(folder.iterdir())[2:]:
        path.unlink()
    stores = prepare_images(tmp_path / "data", [folder], None, SHAPE, scale=False)
    assert [store.num_bytes for store in stores] == [36, 36]
    (folder / "00.png").unlink()
    with pytest.raises(InputError, match="at least 2"):
        prepare_images(tmp_path / "other", [folder], None, SHAPE, scale=False)


def test_the_picture_that_has_another_shape_is_named(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(_pictures(1, (5, 5, 3))[0]).save(folder / "21.png")
    assert first_shape([folder]) == SHAPE
    with pytest.raises(InputError, match=r"21\.png is 5 x 5 colour.*4 x 3 colour.*--image-shape"):
        prepare_images(tmp_path / "data", [folder], None, SHAPE, scale=False)
    train, _ = prepare_images(tmp_path / "data", [folder], None, (2, 2, 1), scale=True)
    assert stored_pictures(train, (2, 2, 1)).shape == (41, 2, 2, 1)
