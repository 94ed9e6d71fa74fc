"""``reformer draw``: a model's pictures in one PNG file."""

import itertools
import math
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from reformer.cli.arguments import DrawArguments
from reformer.cli.devices import find_device
from reformer.cli.generate import require_whole, sampling_of
from reformer.data.files import InputError
from reformer.data.image_tokens import image_shape, read_pictures
from reformer.data.images import ImageShape, Picture, grid, to_image
from reformer.generation.pictures import draw
from reformer.models.language import ReformerForCausalLM

_COVERED = 128
"""Grey, for the part that the model does not see."""


def run(arguments: DrawArguments) -> int:
    """Draw whole pictures, or the lower parts of given ones."""
    sampling_of(arguments)
    for name, least in (("seed", 0), ("samples", 1), ("pictures", 1)):
        require_whole(name, getattr(arguments, name), least)
    if not 0.0 < arguments.keep < 1.0:
        raise InputError(f"keep is {arguments.keep}: it must be above 0 and below 1")
    out = _free_path(arguments)
    model = ReformerForCausalLM.from_pretrained(arguments.run)
    model.to(find_device(arguments.device))
    shape = image_shape(model.config)
    lines = _completions(model, shape, arguments) if arguments.inputs else _new(model, arguments)
    try:
        to_image(grid(lines)).save(out, format="PNG")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    print(out)
    return 0


def _free_path(arguments: DrawArguments) -> Path:
    if arguments.out is None:
        paths = (arguments.run / f"drawing-{number}.png" for number in itertools.count(1))
        return next(path for path in paths if not path.exists())
    if arguments.out.exists():
        raise InputError(f"{arguments.out} exists and is never overwritten: name another --out")
    return arguments.out


def _new(model: ReformerForCausalLM, arguments: DrawArguments) -> list[list[Picture]]:
    shape = image_shape(model.config)
    nothing = np.zeros((0, *shape[1:]), np.uint8)
    (pictures,) = _draw(model, [nothing], arguments)
    width = math.isqrt(len(pictures) - 1) + 1
    return [pictures[start : start + width] for start in range(0, len(pictures), width)]


def _completions(
    model: ReformerForCausalLM, shape: ImageShape, arguments: DrawArguments
) -> list[list[Picture]]:
    """In each line the picture, what the model sees of it, and what it makes of that."""
    given = read_pictures(arguments.inputs, shape, scale=True)
    pictures = list(itertools.islice(given, arguments.pictures))
    kept = min(shape[0] - 1, max(1, round(arguments.keep * shape[0])))
    drawn = _draw(model, [picture[:kept] for picture in pictures], arguments)
    lines = []
    for picture, samples in zip(pictures, drawn, strict=True):
        seen = picture.copy()
        seen[kept:] = _COVERED
        lines.append([picture, seen, *samples])
    return lines


def _draw(
    model: ReformerForCausalLM, beginnings: list[Picture], arguments: DrawArguments
) -> list[list[Picture]]:
    shape = image_shape(model.config)
    num_values = math.prod(shape) - beginnings[0].size
    with Progress(console=Console(stderr=True), transient=True) as progress:
        total = num_values * len(beginnings) * arguments.samples
        bar = progress.add_task("Drawing", total=total)
        return draw(
            model,
            beginnings,
            num_samples=arguments.samples,
            sampling=sampling_of(arguments),
            seed=arguments.seed,
            on_value=lambda: progress.advance(bar),
        )
