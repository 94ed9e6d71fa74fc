"""Picture files become the arrays that they hold, or a sentence that names the file."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reformer.data.files import InputError
from reformer.data.images import Picture, find_images, grid, open_images, scaled

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8, 1)
COLOUR = np.arange(144, dtype=np.uint8).reshape(6, 8, 3)


def idx(pictures: Picture) -> bytes:
    """An IDX file as MNIST's are."""
    header = struct.pack(">HBB", 0, 8, pictures.ndim)
    return header + struct.pack(f">{pictures.ndim}I", *pictures.shape) + pictures.tobytes()


def _read(path: Path) -> list[Picture]:
    return [read() for _, read in open_images([path])]


@pytest.mark.parametrize("picture", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_a_picture_is_what_was_saved(tmp_path: Path, picture: Picture, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture.squeeze()).save(path)
    (read,) = _read(path)
    np.testing.assert_array_equal(read, picture)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (read,) = _read(tmp_path / "a.png")
    assert read[0, 0].tolist() == [10, 20, 30]
    assert (read.reshape(-1, 3)[1:] == 255).all()


@pytest.mark.parametrize("shape", [(5, 6, 8), (5, 6, 8, 3)], ids=["grey", "colour"])
def test_an_idx_file_holds_many(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pictures = np.arange(np.prod(shape), dtype=np.int64).astype(np.uint8).reshape(shape)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(pictures)))
    np.testing.assert_array_equal(np.stack(_read(path)).reshape(shape), pictures)


def test_a_folder_stands_for_the_pictures_below_it(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / ".hidden").mkdir()
    names = ["b.PNG", "a.jpeg", "below/c.png", "t10k-images-idx3-ubyte.gz"]
    for name in [*names, "notes.txt", "t10k-labels-idx1-ubyte.gz", ".hidden/d.png", ".e.png"]:
        (tmp_path / name).touch()
    found = {str(file.relative_to(tmp_path)) for file in find_images([tmp_path])}
    assert found == set(names)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match=f"{tmp_path} holds no pictures"):
        find_images([tmp_path])


def _png(tmp_path: Path) -> bytes:
    Image.fromarray(COLOUR).save(tmp_path / "whole.png")
    return (tmp_path / "whole.png").read_bytes()


def test_what_is_no_whole_picture_is_named(tmp_path: Path) -> None:
    damaged = {
        "text.png": (b"not a picture", "not a picture"),
        "empty.png": (b"", "not a picture"),
        "cut.png": (_png(tmp_path)[:-30], "damaged"),
        "labels-idx1-ubyte": (struct.pack(">HBBI", 0, 8, 1, 2) + b"\1\2", "1 dimension"),
        "cut-idx3-ubyte": (idx(GREY[None, ..., 0])[:-1], "bytes"),
        "header-idx3-ubyte": (idx(GREY[None, ..., 0])[:9], "bytes"),
    }
    for name, (content, reason) in damaged.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{path}.*{reason}"):
            _read(path)


def test_a_picture_of_absurd_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pgm"
    path.write_bytes(b"P5 20000 20000 255\n")
    with pytest.raises(InputError, match="too large"):
        _read(path)


def test_scaling_keeps_the_middle_and_its_proportions() -> None:
    wide = np.zeros((10, 40, 1), np.uint8)
    wide[:, 15:25] = 200  # the middle square
    assert (scaled(wide, (5, 5, 1)) == 200).all()
    assert scaled(wide, (5, 20, 3)).shape == (5, 20, 3)
    np.testing.assert_array_equal(scaled(COLOUR, COLOUR.shape), COLOUR)


def test_a_grid_shows_each_picture_in_its_place() -> None:
    whole = grid([[GREY, GREY + 100], [GREY + 200]], gap=1)
    assert whole.shape == (15, 19, 1)
    np.testing.assert_array_equal(whole[1:7, 10:18], GREY + 100)
    np.testing.assert_array_equal(whole[8:14, 1:9], GREY + 200)
    assert (whole[8:14, 10:18] == 255).all()
