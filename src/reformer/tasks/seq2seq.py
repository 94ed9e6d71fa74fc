"""Sequence to sequence: translations, summaries, whatever is written from a text."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from reformer.config import ConfigError, ReformerConfig
from reformer.data.files import InputError, find_files
from reformer.data.pairs import PairRow, PairSource, pair_batch, pair_rows, read_pairs
from reformer.data.records import Record, has_records, keep_records, kept_records
from reformer.data.tokenizer import Tokenizer, tokenizer_in
from reformer.generation.translating import translate
from reformer.models.encoder_decoder import ReformerEncoderDecoder
from reformer.ops.sliced import IGNORED_LABEL
from reformer.training.evaluation import Pause, evaluating, no_pause
from reformer.training.run import Run
from reformer.training.task import Task, TaskKind
from reformer.training.text_scores import missing_libraries, text_scores

_VALIDATION_PART = 20
"""Without a validation file, the last of so many pairs are kept for validation."""
_WRITTEN = 32
"""Texts that are written at a time, and on the way of training."""
_SHOWN = 5


class Seq2SeqTask(TaskKind):
    """Pairs of a source and a target, as lines with a tab or as records."""

    model = ReformerEncoderDecoder

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise InputError(
                "the seq2seq task learns from pairs: name a .tsv file of lines source TAB target, "
                'or .jsonl with {"source": …, "target": …} a line'
            )
        return given

    def config(self, config: ReformerConfig) -> ReformerConfig:
        if config.encoder_layers is None:
            raise ConfigError(
                "encoder_layers is None: start from --preset seq2seq, or give --encoder-layers"
            )
        return replace(config, causal=True, labels=None)

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task | Run:
        description, config = run.description, run.description.config
        tokenizer = tokenizer_in(run.path)
        if config.vocab_size != tokenizer.vocab_size + 1:  # the mark's id is no tokenizer's
            config = replace(config, vocab_size=tokenizer.vocab_size + 1)
            return run.describe(replace(description, config=config))
        _keep(run, tokenizer)
        if (sentence := missing_libraries()) is not None:
            say(sentence)
        pairs = kept_records(run.data, "train")
        rows = pair_rows(pairs, tokenizer, config)
        num_tokens = sum(len(part) for row in rows for part in row)
        return Task(
            self.model,
            PairSource(pairs, rows, description.settings.batch_size, config.seed),
            self.validation(run),
            f"{len(pairs):,} pairs, {num_tokens:,} tokens on both sides",
            lambda model: _show(run, model),
        )

    def validation(self, run: Run) -> "PairValidation":
        return _validation(run, kept_records(run.data, "validation"))

    def validation_on(self, run: Run, inputs: Sequence[str]) -> "PairValidation":
        return _validation(run, read_pairs(find_files(inputs)))


def _keep(run: Run, tokenizer: Tokenizer) -> None:
    """Read the run's inputs into its data folder, unless that has been done."""
    if has_records(run.data, "train", "validation"):
        return
    description = run.description
    pairs = read_pairs(find_files(description.inputs))
    if description.validation is not None:
        held_out = read_pairs(find_files([description.validation]))
    else:
        cut = len(pairs) - max(1, len(pairs) // _VALIDATION_PART)
        pairs, held_out = pairs[:cut], pairs[cut:]
    if not pairs:
        raise InputError(
            "the input holds one pair: one is needed to train on and one to validate on"
        )
    pair_rows([*pairs, *held_out], tokenizer, description.config)  # errors that name their lines
    keep_records(run.data, "train", [pair.fields for pair in pairs])
    keep_records(run.data, "validation", [pair.fields for pair in held_out])


def _validation(run: Run, pairs: Sequence[Record]) -> "PairValidation":
    tokenizer, settings = tokenizer_in(run.path), run.description.settings
    rows = pair_rows(pairs, tokenizer, run.description.config)
    return PairValidation(pairs, rows, tokenizer, settings.evaluate_tokens)


class PairValidation:
    """Bits per byte of the targets, their ends included; and how near what the model writes is to
    them, with the likeliest token at each step.

    On the way, of as many pairs as have ``part_tokens`` tokens, and a few of these are written.
    What does not end is cut at twice the longest target's tokens. A process with a part of the
    model writes nothing.
    """

    def __init__(
        self,
        pairs: Sequence[Record],
        rows: Sequence[PairRow],
        tokenizer: Tokenizer,
        part_tokens: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.pairs = list(zip(pairs, rows, strict=True))
        total = sum(len(row.source) + len(row.target) for row in rows)
        self._part_tokens = part_tokens
        self._stride = max(1, round(total / part_tokens))

    def measure(
        self, model: ReformerEncoderDecoder, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, float]:
        pairs = self.pairs if whole else self.pairs[:: self._stride]
        written = pairs if whole else pairs[:: max(1, len(pairs) // _WRITTEN)][:_WRITTEN]
        num_bytes = sum(len(pair.text("target").encode(errors="replace")) for pair, _ in pairs)
        nats = self._nats(model, [row for _, row in pairs], pause)
        metrics = {"bits_per_byte": nats / math.log(2.0) / num_bytes}
        if not any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
            texts = self.write(model, [pair.text("source") for pair, _ in written], pause)
            metrics |= text_scores(texts, [pair.text("target") for pair, _ in written])
        return {f"validation_{name}": value for name, value in metrics.items()}

    def _nats(self, model: ReformerEncoderDecoder, rows: Sequence[PairRow], pause: Pause) -> float:
        """Total cost of the targets and their ends."""
        device = next(model.parameters()).device
        rows = sorted(rows, key=lambda row: len(row.source) + len(row.target))
        nats = 0.0
        for start in range(0, len(rows), _WRITTEN):
            pause()
            batch = pair_batch(rows[start : start + _WRITTEN])
            with evaluating(model):
                loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
            nats += float(loss) * int((batch["labels"] != IGNORED_LABEL).sum())
        return nats

    def write(
        self, model: ReformerEncoderDecoder, sources: Sequence[str], pause: Pause = no_pause
    ) -> list[str]:
        """What the model writes from each source."""
        longest = max(len(row.target) for _, row in self.pairs)
        limit = min(2 * longest, model.config.max_length)
        # Those of like length end together.
        order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
        texts = [""] * len(sources)
        for start in range(0, len(order), _WRITTEN):
            pause()
            places = order[start : start + _WRITTEN]
            with evaluating(model):
                found = translate(
                    model, self.tokenizer, [sources[p] for p in places], max_new_tokens=limit
                )
            for place, translation in zip(places, found, strict=True):
                texts[place] = translation.text
        return texts

    def cost(self, metrics: Mapping[str, float]) -> float:
        return metrics["validation_bits_per_byte"]


def _show(run: Run, model: ReformerEncoderDecoder) -> Iterator[str]:
    validation = Seq2SeqTask().validation(run)
    pairs = [pair for pair, _ in validation.pairs[:_SHOWN]]
    texts = validation.write(model, [pair.text("source") for pair in pairs])
    for pair, text in zip(pairs, texts, strict=True):
        yield f"{pair.text('source')}\n  {text} (right: {pair.text('target')})\n"


TASK = Seq2SeqTask()
