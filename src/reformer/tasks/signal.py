"""Signals of one dimension, value by value: each from those before it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reformer.data.corpus import has_corpus
from reformer.data.files import InputError
from reformer.data.signals.files import (
    SignalSource,
    find_kind,
    find_signals,
    keep_kind,
    kept_kind,
    prepare_signals,
    signal_values,
)
from reformer.data.store import TokenStore, open_store
from reformer.models.language import ReformerForCausalLM
from reformer.training.evaluation import Pause, TextValidation, no_pause
from reformer.training.run import Run
from reformer.training.task import Task, TaskKind, shortened


class SignalTask(TaskKind):
    """Files of one kind: sound, genomes, or series of numbers."""

    model = ReformerForCausalLM
    reads_text = False

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise InputError(
                "the signal task learns sound, genomes or series: name .wav, .fasta or .csv files"
            )
        return given

    def find_files(self, inputs: Sequence[str]) -> list[Path]:
        return find_signals(inputs)

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task | Run:
        description, config = run.description, run.description.config
        if not has_corpus(run.data):
            files = find_signals(description.inputs)
            keep_kind(run.path, find_kind(files, description.settings.column))
        kind = kept_kind(run.path)
        corpus = prepare_signals(run.data, description.inputs, description.validation, kind)
        num_values = len(corpus.train)
        suited = replace(config, vocab_size=kind.vocab_size, num_levels=kind.num_levels)
        if suited != config:
            return run.describe(replace(description, config=suited))
        if shorter := shortened(run, num_values, length_fixed=length_fixed, say=say):
            return shorter
        return Task(
            self.model,
            SignalSource(corpus.train, config.max_length, config.seed),
            self.validation(run),
            f"{kind.name}, {num_values:,} {kind.value_name}",
        )

    def validation(self, run: Run) -> "SignalValidation":
        store = open_store(run.data, "validation")
        return SignalValidation(store, run.description.settings.evaluate_tokens)

    def validation_on(self, run: Run, inputs: Sequence[str]) -> "SignalValidation":
        values = signal_values(find_signals(inputs), kept_kind(run.path))
        return SignalValidation(TokenStore(values, len(values)), len(values))


class SignalValidation(TextValidation):
    """Bits per value, each of which is a byte in the store."""

    def measure(
        self, model: ReformerForCausalLM, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, float]:
        (bits,) = super().measure(model, whole=whole, pause=pause).values()
        return {"validation_bits_per_value": bits}

    def cost(self, metrics: Mapping[str, float]) -> float:
        return metrics["validation_bits_per_value"]


TASK = SignalTask()
