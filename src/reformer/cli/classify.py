"""``reformer classify``: labels for the texts of a file."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from reformer.cli.arguments import ClassifyArguments
from reformer.cli.devices import find_device
from reformer.cli.terminal import printable
from reformer.config import Labels
from reformer.data.files import InputError, find_files
from reformer.data.records import holds_records, read_records, read_text
from reformer.data.tokenizer import tokenizer_in
from reformer.generation.classifying import classify
from reformer.models.classification import ReformerForSequenceClassification
from reformer.training.run import require_vocabulary

_TEXTS_AT_ONCE = 64
_SHOWN = 60


def run(arguments: ClassifyArguments) -> int:
    """Parse, classify, print."""
    model = ReformerForSequenceClassification.from_pretrained(arguments.run)
    model.to(find_device(arguments.device))
    tokenizer = tokenizer_in(arguments.run)
    require_vocabulary(tokenizer, model.config.vocab_size)
    texts = list(_texts(arguments.file))
    if not texts:
        raise InputError(f"{arguments.file} holds no texts")
    labels = model.config.labels or Labels()
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[first : first + _TEXTS_AT_ONCE]
        results = classify(model, tokenizer, [text for _, text in some])
        for (line, text), scores in zip(some, results, strict=True):
            if arguments.json:
                print(json.dumps(_record(line, labels, scores), ensure_ascii=False))
            else:
                _print(line, text, labels, scores)
    return 0


def _texts(name: str) -> Iterator[tuple[int, str]]:
    """Each text and the line that it begins on."""
    if name == "-":
        text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
        yield from [(1, text)] if text else []
        return
    for file in find_files([Path(name)]):
        if holds_records(file):
            yield from ((record.line, record.text("text")) for record in read_records([file]))
        elif text := read_text(file):
            yield 1, text


def _chosen(labels: Labels, scores: dict[str, float]) -> list[str]:
    if labels.problem == "single_label":
        return [next(iter(scores))]
    return [name for name, chance in scores.items() if chance > 0.5]


def _record(line: int, labels: Labels, scores: dict[str, float]) -> dict[str, Any]:
    if labels.problem == "regression":
        return {"line": line, "values": list(scores.values())}
    return {"line": line, "labels": _chosen(labels, scores), "scores": scores}


def _print(line: int, text: str, labels: Labels, scores: dict[str, float]) -> None:
    if labels.problem == "regression":
        shown = ", ".join(f"{value:.4g}" for value in scores.values())
    else:
        chosen = [f"{name} ({scores[name]:.0%})" for name in _chosen(labels, scores)]
        shown = ", ".join(chosen) or "none"
    beginning = " ".join(text[: 2 * _SHOWN].split())[:_SHOWN]
    Console(highlight=False).print(
        Text.assemble(f"{line}  ", (printable(shown), "bold"), f"  {printable(beginning)}"),
        soft_wrap=True,
    )
