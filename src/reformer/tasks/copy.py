"""The duplication task (paper, section 5): repeat what stands in the first half."""

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from reformer.config import ReformerConfig
from reformer.data.files import InputError
from reformer.data.sources import CopySource
from reformer.models.language import ReformerForCausalLM
from reformer.ops.randomness import derive_seed
from reformer.ops.sliced import IGNORED_LABEL
from reformer.training.evaluation import Pause, evaluating, no_pause, total_cost
from reformer.training.run import Run
from reformer.training.task import Task, TaskKind

_NUM_SEQUENCES = 32
_HELD_OUT = 1
"""Names the stream of sequences that is kept for validation."""


class CopyTask(TaskKind):
    """Sequences made up on the fly, at the model's length and vocabulary."""

    model = ReformerForCausalLM
    reads_text = False

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        if given:
            raise InputError("the copy task makes its own data: name no files with it")
        return ()

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task:
        config = run.description.config
        source = CopySource(config.max_length, config.vocab_size, config.seed)
        return Task(self.model, source, self.validation(run), "made up on the fly")

    def validation(self, run: Run) -> "CopyValidation":
        return copy_validation(run.description.config)


def copy_validation(config: ReformerConfig) -> "CopyValidation":
    """Sequences at the model's length and vocabulary that training never sees."""
    seed = derive_seed(config.seed, _HELD_OUT)
    return CopyValidation(CopySource(config.max_length, config.vocab_size, seed), _NUM_SEQUENCES)


class CopyValidation:
    """Loss and accuracy on the second half of sequences."""

    def __init__(self, source: CopySource, num_sequences: int) -> None:
        self.source = source
        self.num_sequences = num_sequences

    def measure(
        self, model: ReformerForCausalLM, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, float]:
        count = self.num_sequences if whole else max(1, self.num_sequences // 4)
        nats = correct = total = 0.0
        for number in range(count):
            pause()
            batch = self.source.batch(number, 1)
            nats += total_cost(model, batch["input_ids"], batch["labels"])
            hits, counted = _count_correct(model, batch["input_ids"], batch["labels"])
            correct, total = correct + hits, total + counted
        return {
            "validation_bits_per_byte": nats / math.log(2.0) / total,
            "validation_accuracy": correct / total,
        }

    def cost(self, metrics: Mapping[str, float]) -> float:
        return metrics["validation_bits_per_byte"]


def _count_correct(
    model: ReformerForCausalLM, input_ids: Tensor, labels: Tensor
) -> tuple[int, int]:
    device = next(model.parameters()).device
    with evaluating(model):
        predicted = model(input_ids.to(device)).logits.argmax(dim=-1).cpu()
    counted = labels[:, 1:] != IGNORED_LABEL
    correct = (predicted[:, :-1] == labels[:, 1:]) & counted
    return int(correct.sum()), int(counted.sum())


TASK = CopyTask()
