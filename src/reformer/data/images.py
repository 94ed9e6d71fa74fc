"""Pictures from files: PNG, JPEG and whatever else pillow reads, and IDX files such as MNIST's.

A picture is uint8 [rows, columns, channels], with one channel for grey and three for colour;
transparent parts are laid on white.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from reformer.data.files import InputError, find_files_like, read_file

Picture = npt.NDArray[np.uint8]
ImageShape = tuple[int, int, int]
"""Rows, columns, channels."""
ReadPicture = Callable[[], Picture]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
_IDX_NAMES = ("idx3-ubyte", "idx4-ubyte")
_IDX_START = b"\0\0\x08"  # unsigned bytes; the fourth byte is the number of dimensions
_GREY_MODES = ("1", "L", "LA", "La", "I;16")


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    """Picture files; a folder stands for those below it, known by their names."""
    return find_files_like(inputs, _is_image, "pictures: PNG, JPEG or IDX files, say")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES or any(name in path.name for name in _IDX_NAMES)


def open_images(files: Sequence[Path]) -> Iterator[tuple[str, ReadPicture]]:
    """For each picture in the files its name, and a function that reads it.

    InputError when a file is damaged or no picture; a picture is not read before it is asked for.
    """
    for file in files:
        start = next(read_file(file, chunk_size=4), b"")
        if start[:3] == _IDX_START:
            for number, picture in enumerate(_read_idx(file)):
                yield f"picture {number} of {file}", partial(_same, picture)
        else:
            yield str(file), partial(_read_image, file)


def _same(picture: Picture) -> Picture:
    return picture


def _read_idx(file: Path) -> Picture:
    """All pictures of an IDX file: uint8 [N, rows, columns, channels]."""
    data = b"".join(read_file(file))
    num_dimensions = data[3] if len(data) > 3 else 0
    if num_dimensions not in (3, 4):
        raise InputError(
            f"{file} is an IDX file of {num_dimensions} dimensions: pictures have 3, or 4 with "
            "colour (files of labels have 1)"
        )
    start = 4 + 4 * num_dimensions
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    expected = math.prod(shape)
    if len(data) - start != expected:
        raise InputError(
            f"{file} has {len(data)} bytes, but its header promises {start + expected}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(*[*shape, 1][:4])


def _read_image(file: Path) -> Picture:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return _array(image)
    except UnidentifiedImageError as error:
        raise InputError(f"{file} is not a picture: PNG, JPEG or IDX files are read") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is too large a picture: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{file} is a damaged picture: {error}") from error


def _array(image: Image.Image) -> Picture:
    grey = image.mode in _GREY_MODES
    if image.mode == "I;16":
        return (np.asarray(image)[..., None] // 256).astype(np.uint8)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def scaled(picture: Picture, shape: ImageShape) -> Picture:
    """The picture's middle, cut to the shape's proportions and scaled to it."""
    rows, columns, channels = shape
    image = to_image(picture).convert("L" if channels == 1 else "RGB")
    width = min(image.width, image.height * columns / rows)
    height = min(image.height, image.width * rows / columns)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    image = image.resize(
        (columns, rows), Image.Resampling.BOX, (left, top, left + width, top + height)
    )
    return np.asarray(image).reshape(shape)


def to_image(picture: Picture) -> Any:
    """A pillow image of a picture with one or three channels."""
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def grid(pictures: Sequence[Sequence[Picture]], gap: int = 2) -> Picture:
    """Rows of pictures of one shape as one picture, with white lines between them."""
    rows, columns, channels = pictures[0][0].shape
    width = max(len(line) for line in pictures)
    size = (gap + len(pictures) * (rows + gap), gap + width * (columns + gap), channels)
    whole = np.full(size, 255, np.uint8)
    for i, line in enumerate(pictures):
        for j, picture in enumerate(line):
            top, left = gap + i * (rows + gap), gap + j * (columns + gap)
            whole[top : top + rows, left : left + columns] = picture
    return whole
