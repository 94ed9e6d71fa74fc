"""Pictures, value by value: each from the pixels above it and to its left."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reformer.data.files import InputError
from reformer.data.image_tokens import (
    ImageSource,
    first_shape,
    image_batch,
    image_shape,
    prepare_images,
    read_pictures,
    stored_pictures,
    with_image_shape,
    write_pictures,
)
from reformer.data.images import Picture, find_images
from reformer.data.store import TokenStore, open_store
from reformer.models.language import ReformerForCausalLM
from reformer.training.evaluation import Pause, no_pause, total_cost
from reformer.training.planner import machine_memory, plan, require_memory
from reformer.training.run import Run
from reformer.training.task import Task, TaskKind

_TOKENS_PER_PASS = 8192


class ImageTask(TaskKind):
    """Picture files of one shape, or of any with ``settings.image_shape``."""

    model = ReformerForCausalLM
    reads_text = False

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise InputError("the image task learns pictures: name a folder of PNG or JPEG files")
        return given

    def find_files(self, inputs: Sequence[str]) -> list[Path]:
        return find_images(inputs)

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task | Run:
        description, settings = run.description, run.description.settings
        shape = settings.image_shape or first_shape(description.inputs)
        config = with_image_shape(description.config, shape)
        if config != description.config:
            require_memory(plan(config, settings), machine_memory())
            return run.describe(replace(description, config=config))
        train, _ = prepare_images(
            run.data,
            description.inputs,
            description.validation,
            shape,
            scale=settings.image_shape is not None,
        )
        source = ImageSource(train, shape, config.seed)
        rows, columns, channels = shape
        kind = "grey" if channels == 1 else "colour"
        data = f"{len(source.pictures):,} {kind} pictures of {rows} x {columns} pixels"
        return Task(self.model, source, self.validation(run), data)

    def validation(self, run: Run) -> "ImageValidation":
        store = open_store(run.data, "validation")
        shape = image_shape(run.description.config)
        return ImageValidation(
            stored_pictures(store, shape), run.description.settings.evaluate_tokens
        )

    def validation_on(self, run: Run, inputs: Sequence[str]) -> "ImageValidation":
        shape = image_shape(run.description.config)
        scale = run.description.settings.image_shape is not None
        with tempfile.TemporaryDirectory() as folder:
            pictures = read_pictures(inputs, shape, scale=scale)
            store = write_pictures(Path(folder), "given", pictures)
            kept = TokenStore(np.array(store.tokens), store.num_bytes)
        return ImageValidation(stored_pictures(kept, shape), len(kept))


class ImageValidation:
    """Bits per dimension; on the way, of pictures at even distances in the whole."""

    def __init__(self, pictures: Picture, part_tokens: int) -> None:
        self.pictures = pictures
        size = pictures[0].size
        count = min(len(pictures), max(1, part_tokens // size))
        self._part = np.linspace(0, len(pictures) - 1, count).round().astype(int)
        self._per_pass = max(1, _TOKENS_PER_PASS // size)

    def measure(
        self, model: ReformerForCausalLM, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, float]:
        numbers = np.arange(len(self.pictures)) if whole else self._part
        nats = 0.0
        for start in range(0, len(numbers), self._per_pass):
            pause()
            batch = image_batch(self.pictures[numbers[start : start + self._per_pass]])
            nats += total_cost(model, batch["input_ids"], batch["labels"])
        values = len(numbers) * self.pictures[0].size
        return {"validation_bits_per_dimension": nats / math.log(2.0) / values}

    def cost(self, metrics: Mapping[str, float]) -> float:
        return metrics["validation_bits_per_dimension"]


TASK = ImageTask()
