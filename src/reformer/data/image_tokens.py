"""Pictures as tokens: row after row, each pixel's channels in turn, after a symbol that starts.

Token t stands at the place of the value that it helps to predict: the start symbol at the first
value's place, the first value at the second's. A model's ``axial_shape`` is the picture's, with
one more row for the token after which nothing comes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from reformer.config import ReformerConfig
from reformer.data.files import InputError
from reformer.data.images import ImageShape, Picture, find_images, open_images, scaled
from reformer.data.sources import Batch, LossUnit
from reformer.data.store import TokenStore, has_store, open_store, write_store
from reformer.data.tokenizer import ByteTokenizer
from reformer.ops.randomness import derive_seed

START = 256
"""The token before the first value."""
VOCAB_SIZE = 257
BITS_PER_DIMENSION = LossUnit("bits_per_dimension", 1.0 / math.log(2.0))

_VALIDATION_EVERY = 20
_LARGEST = 1 << 24
"""Values of a picture; more would not fit any machine's memory in training."""


def image_shape(config: ReformerConfig) -> ImageShape:
    """The shape of the pictures that this config's model knows; InputError if it knows none."""
    shape = config.axial_shape
    if config.vocab_size == VOCAB_SIZE and shape is not None and len(shape) == 3:
        rows, columns, channels = shape[0] - 1, shape[1], shape[2]
        if rows * columns * channels + 1 == config.max_length and channels in (1, 3):
            return rows, columns, channels
    raise InputError("this model was not trained on pictures: use a run of --task image")


def with_image_shape(config: ReformerConfig, shape: ImageShape) -> ReformerConfig:
    """The config for pictures of this shape. Axis widths are kept where they fit three axes."""
    rows, columns, channels = shape
    sizes = config.axial_sizes if len(config.axial_sizes or ()) == 3 else None
    return replace(
        config,
        vocab_size=VOCAB_SIZE,
        num_levels=START,
        max_length=rows * columns * channels + 1,
        axial_shape=(rows + 1, columns, channels),
        axial_sizes=sizes,
    )


def to_tokens(picture: Picture) -> list[int]:
    """The start symbol and all values."""
    return [START, *picture.flatten().tolist()]


def to_picture(tokens: Sequence[int], shape: ImageShape) -> Picture:
    """The values after the start symbol as a picture. A start symbol among them becomes white."""
    return np.minimum(tokens[1:], 255).astype(np.uint8).reshape(shape)


def first_shape(inputs: Sequence[str | Path]) -> ImageShape:
    """The shape of the first picture."""
    name, read = next(open_images(find_images(inputs)), (None, None))
    if read is None:
        raise InputError(f"{', '.join(map(str, inputs))} holds no pictures")
    rows, columns, channels = read().shape
    if rows * columns * channels > _LARGEST:
        raise InputError(
            f"{name} is {rows} x {columns}, too many pixels for one sequence: scale pictures "
            "with --image-shape, such as 64 64 3"
        )
    return rows, columns, channels


def prepare_images(
    folder: Path,
    inputs: Sequence[str | Path],
    validation: str | Path | None,
    shape: ImageShape,
    *,
    scale: bool,
) -> tuple[TokenStore, TokenStore]:
    """Stores to train on and for validation, in ``folder``; reused when they are finished there.

    Without a validation file every twentieth picture is kept for it. scale: cut and scale
    pictures to ``shape``; else InputError names the first one that has another.
    """
    if has_store(folder, "train") and has_store(folder, "validation"):
        return open_store(folder, "train"), open_store(folder, "validation")
    if validation is None:
        count = sum(1 for _ in open_images(find_images(inputs)))
        if count < 2:
            raise InputError(f"{inputs[0]} holds {count} picture: give at least 2")
        every = min(_VALIDATION_EVERY, count)
        train = read_pictures(inputs, shape, scale=scale, keep=lambda n: (n + 1) % every != 0)
        held_out = read_pictures(inputs, shape, scale=scale, keep=lambda n: (n + 1) % every == 0)
    else:
        train = read_pictures(inputs, shape, scale=scale)
        held_out = read_pictures([validation], shape, scale=scale)
    return write_pictures(folder, "train", train), write_pictures(folder, "validation", held_out)


def write_pictures(folder: Path, name: str, pictures: Iterable[Picture]) -> TokenStore:
    """The pictures' values end to end as a store."""
    chunks = (picture.tobytes() for picture in pictures)
    return write_store(folder, name, chunks, ByteTokenizer(), ByteTokenizer.vocab_size)


def read_pictures(
    inputs: Sequence[str | Path],
    shape: ImageShape,
    *,
    scale: bool,
    keep: Callable[[int], bool] = lambda number: True,
) -> Iterator[Picture]:
    """The pictures whose numbers are kept, each of this shape."""
    for number, (name, read) in enumerate(open_images(find_images(inputs))):
        if not keep(number):
            continue
        picture = read()
        if scale:
            picture = scaled(picture, shape)
        if picture.shape != shape:
            raise InputError(
                f"{name} is {_in_words(picture.shape)}, where {_in_words(shape)} are expected: "
                f"--image-shape {' '.join(map(str, shape))} scales every picture"
            )
        yield picture


def _in_words(shape: Sequence[int]) -> str:
    rows, columns, channels = shape
    return f"{rows} x {columns} {'grey' if channels == 1 else 'colour'} pixels"


class ImageSource:
    """Pictures drawn at random from a store."""

    unit = BITS_PER_DIMENSION

    def __init__(self, store: TokenStore, shape: ImageShape, seed: int) -> None:
        self.pictures = stored_pictures(store, shape)
        self.seed = seed

    def batch(self, first: int, count: int) -> Batch:
        numbers = [
            derive_seed(self.seed, number) % len(self.pictures)
            for number in range(first, first + count)
        ]
        return image_batch(self.pictures[numbers])


def stored_pictures(store: TokenStore, shape: ImageShape) -> Picture:
    """A store's pictures: uint8 [N, rows, columns, channels]; InputError if it holds others."""
    size = math.prod(shape)
    if len(store) % size:
        raise InputError(
            f"the stored pictures have {len(store)} values, no multiple of {size}: delete the "
            "run's data folder to make them again"
        )
    return store.tokens.reshape(-1, *shape)


def image_batch(pictures: Picture) -> Batch:
    """The model's arguments for pictures [B, rows, columns, channels]: [B, values + 1] each."""
    values = torch.from_numpy(pictures.reshape(len(pictures), -1).astype(np.int64))
    input_ids = torch.nn.functional.pad(values, (1, 0), value=START)
    return {"input_ids": input_ids, "labels": input_ids}
