"""Bits per dimension of pictures: trained runs beside lossless file formats.

    python benchmarks/images.py PICTURES RUN… --out benchmarks/results/images.json

PICTURES: files or a folder that no run was trained on; they are brought to the first run's shape.
A format's bits are those of its smallest files: one for each picture, which pays for a header every
time, and one tall picture of all of them, which does not. Every value counts as a dimension.
"""

import argparse
import io
import json
import platform
from pathlib import Path

import numpy as np

from reformer.data.image_tokens import image_shape, read_pictures
from reformer.data.images import ImageShape, Picture, to_image
from reformer.models.language import ReformerForCausalLM
from reformer.tasks.image import ImageValidation
from reformer.training.run import open_run

FORMATS = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP, lossless": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
}
TALLEST = 16383
"""Rows of a WebP file."""


def _size(picture: Picture, options: dict[str, object]) -> int:
    file = io.BytesIO()
    to_image(picture).save(file, **options)
    return file.tell()


def _formats(pictures: Picture) -> dict[str, dict[str, float]]:
    _, rows, columns, channels = pictures.shape
    whole = pictures.reshape(-1, columns, channels)
    step = TALLEST // rows * rows
    return {
        name: {
            "a file each": sum(_size(p, options) for p in pictures) * 8 / pictures.size,
            "tall files": sum(
                _size(whole[start : start + step], options) for start in range(0, len(whole), step)
            )
            * 8
            / pictures.size,
        }
        for name, options in FORMATS.items()
    }


def _run(path: Path, pictures: Picture) -> dict[str, object]:
    model = ReformerForCausalLM.from_pretrained(path)
    bits = ImageValidation(pictures, pictures.size).measure(model, whole=True)
    settings = open_run(path).description.settings
    return {
        "bits_per_dimension": bits["validation_bits_per_dimension"],
        "layers": [type(layer).__name__ for layer in model.config.layers],
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": settings.steps,
        "pictures_seen": settings.steps * settings.batch_size * settings.accumulation_steps,
    }


def _shape(runs: list[Path]) -> ImageShape:
    return image_shape(ReformerForCausalLM.from_pretrained(runs[0]).config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=1000, help="pictures to measure on")
    arguments = parser.parse_args()
    shape = _shape(arguments.runs)
    every = list(read_pictures([arguments.pictures], shape, scale=True))
    numbers = np.linspace(0, len(every) - 1, min(arguments.most, len(every))).round().astype(int)
    pictures = np.stack([every[number] for number in numbers])
    results = {
        "pictures": len(pictures),
        "shape": shape,
        "formats": _formats(pictures),
        "runs": {path.name: _run(path, pictures) for path in arguments.runs},
        "machine": platform.processor() or platform.machine(),
    }
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
