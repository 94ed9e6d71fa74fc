"""``reformer inspect``: what a model's LSH layers do on a text."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from reformer.cli.arguments import InspectArguments
from reformer.config import LSH, ConfigError
from reformer.data.files import InputError, find_files, read_files
from reformer.data.tokenizer import tokenizer_in
from reformer.inspection.attention import HeadReport, Inspection, inspect_attention
from reformer.inspection.pictures import PICTURES, write_pictures
from reformer.models.language import ReformerForCausalLM
from reformer.training.run import require_vocabulary

REPORT = "inspection.json"


def run(arguments: InspectArguments) -> int:
    """Run the model on the text, measure, draw."""
    model = ReformerForCausalLM.from_pretrained(arguments.run, num_hashes=arguments.num_hashes)
    if not any(isinstance(layer, LSH) for layer in model.config.layers):
        raise ConfigError(f"{arguments.run} has no LSH layer: there is nothing to inspect")
    longest = model.config.max_length
    length = longest if arguments.length is None else arguments.length
    if not 2 <= length <= longest:
        raise ConfigError(f"length is {length}: this model takes from 2 to {longest} tokens here")
    if arguments.queries < 1:
        raise ConfigError(f"queries is {arguments.queries}: it must be at least 1")
    input_ids = _read(arguments, model, length)
    inspection = inspect_attention(model, input_ids, num_queries=arguments.queries)
    out = arguments.out or arguments.run / "inspection"
    out.mkdir(parents=True, exist_ok=True)
    report = _as_json(arguments, inspection)
    (out / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_pictures(inspection, out)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        _print(inspection.reports, out)
    return 0


def _read(arguments: InspectArguments, model: ReformerForCausalLM, length: int) -> torch.Tensor:
    """The first ``length`` tokens of the file, [1, L]."""
    tokenizer = tokenizer_in(arguments.run)
    require_vocabulary(tokenizer, model.config.vocab_size)
    taken: list[npt.NDArray[np.int64]] = []
    count = 0
    for ids in tokenizer.encode(read_files(find_files([str(arguments.file)]))):
        taken.append(np.asarray(ids, dtype=np.int64))
        count += len(ids)
        if count >= length:
            break
    if count < 2:
        raise InputError(f"{arguments.file} has {count} tokens: at least 2 are needed")
    return torch.from_numpy(np.concatenate(taken)[:length])[None]


def _as_json(arguments: InspectArguments, inspection: Inspection) -> dict[str, object]:
    return {
        "model": str(arguments.run),
        "file": str(arguments.file),
        "num_tokens": inspection.length,
        "num_queries": len(inspection.queries),
        "heads": [dataclasses.asdict(report) for report in inspection.reports],
    }


def _print(reports: list[HeadReport], out: Path) -> None:
    table = Table()
    for name in (
        "layer", "head", "buckets", "effective", "largest", "keys seen", "mass found",
        "one more round",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for report in reports:
        table.add_row(
            str(report.layer),
            str(report.head),
            str(report.num_buckets),
            f"{report.effective_buckets:.1f}",
            f"{report.bucket_sizes[0]:,}",
            f"{report.keys_seen:.0f}",
            f"{report.covered:.1%}",
            f"{report.gain_of_one_more_round:+.1%}",
        )
    console = Console()
    console.print(table)
    console.print(f"Written to {out}: {', '.join((REPORT, *PICTURES))}", soft_wrap=True)
