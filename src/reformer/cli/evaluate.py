"""``reformer evaluate``: how many bits a model needs for each byte of whole files."""

import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from reformer.cli.arguments import EvaluateArguments
from reformer.cli.devices import find_device
from reformer.cli.terminal import table_of_counts
from reformer.config import ConfigError
from reformer.data.files import InputError, count_bytes, find_files, read_file
from reformer.data.store import has_store, open_store, write_store
from reformer.data.tokenizer import JsonTokenizer, Tokenizer, tokenizer_in
from reformer.models.language import ReformerForCausalLM
from reformer.tasks import task_kind
from reformer.training.evaluation import TextScore, score_text
from reformer.training.run import RUN_FILE, Run, open_run, require_vocabulary


def run(arguments: EvaluateArguments) -> int:
    """Parse, evaluate, print."""
    job = open_run(arguments.run) if (arguments.run / RUN_FILE).is_file() else None
    if job is None or job.description.settings.task == "text":
        results = _evaluate_text(arguments, job)
    else:
        results = _evaluate_task(arguments, job)
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        _print_table(results)
    return 0


def _evaluate_task(arguments: EvaluateArguments, job: Run) -> dict[str, Any]:
    """What the run's task measures: on the files, or on what the run kept for validation."""
    if arguments.length is not None or arguments.tokenizer is not None:
        raise InputError("--length and --tokenizer are for language models of text")
    kind = task_kind(job.description.settings.task)
    model = kind.model.from_pretrained(job.path, num_hashes=arguments.num_hashes)
    model.to(find_device(arguments.device))
    if arguments.inputs:
        validation = kind.validation_on(job, arguments.inputs)
    else:
        validation = kind.validation(job)
    measured = validation.measure(model, whole=True)
    return {name.removeprefix("validation_"): value for name, value in measured.items()}


def _evaluate_text(arguments: EvaluateArguments, job: Run | None) -> dict[str, Any]:
    model = ReformerForCausalLM.from_pretrained(arguments.run, num_hashes=arguments.num_hashes)
    model.to(find_device(arguments.device))
    length = _length(arguments.length, model.config.max_length)
    if arguments.inputs:
        return _evaluate_files(model, arguments, length)
    if job is None:
        raise InputError(f"{arguments.run} is a model without a run: name the files to evaluate")
    if not has_store(job.data, "validation"):
        raise InputError(f"{arguments.run} has no validation text: name the files to evaluate")
    score = score_text(model, open_store(job.data, "validation"), length=length)
    return {**_numbers(score), "context_length": length}


def _length(asked: int | None, longest: int) -> int:
    if asked is None:
        return longest
    if not 1 <= asked <= longest:
        raise ConfigError(f"length is {asked}: this model takes from 1 to {longest} tokens")
    return asked


def _tokenizer(arguments: EvaluateArguments, model: ReformerForCausalLM) -> Tokenizer:
    if arguments.tokenizer is not None:
        tokenizer: Tokenizer = JsonTokenizer(arguments.tokenizer)
    else:
        tokenizer = tokenizer_in(arguments.run)
    require_vocabulary(tokenizer, model.config.vocab_size)
    return tokenizer


def _evaluate_files(
    model: ReformerForCausalLM, arguments: EvaluateArguments, length: int
) -> dict[str, Any]:
    tokenizer = _tokenizer(arguments, model)
    scores: dict[str, TextScore] = {}
    for file in find_files(arguments.inputs):
        count_bytes([file])
        with tempfile.TemporaryDirectory() as folder:
            chunks = read_file(file)
            store = write_store(Path(folder), "text", chunks, tokenizer, model.config.vocab_size)
            scores[str(file)] = score_text(model, store, length=length)
    total = sum(scores.values(), TextScore(0.0, 0, 0))
    files = [{"file": name, **_numbers(score)} for name, score in scores.items()]
    return {**_numbers(total), "context_length": length, "files": files}


def _numbers(score: TextScore) -> dict[str, float]:
    return {
        "bits_per_byte": score.bits_per_byte,
        "perplexity_per_token": score.perplexity,
        "num_bytes": score.num_bytes,
        "num_tokens": score.num_tokens,
    }


def _print_table(results: dict[str, Any]) -> None:
    table = Table()
    counts = [name for name, value in results.items() if isinstance(value, dict)]
    columns = [name for name in results if name not in ("files", "context_length", *counts)]
    files = results.get("files", [])
    if files:
        table.add_column("file", overflow="fold")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for row in files:
        table.add_row(row["file"], *(_shown(row[name]) for name in columns))
    if len(files) != 1:
        table.add_row(*(["total"] if files else []), *(_shown(results[name]) for name in columns))
    Console().print(table)
    for name in counts:
        Console().print(table_of_counts(name, results[name]))


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
