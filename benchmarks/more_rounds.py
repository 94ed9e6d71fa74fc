"""Bits per byte of trained models with other rounds of hashing than in training, and with none.

Takes the folder that ``benchmarks/quality.py`` filled and evaluates its LSH models, as they were
trained, with 1 to 16 rounds, and with every pair seen ("all pairs": exact attention with the same
weights). The text is the last 5 % of Moby-Dick.

    python benchmarks/quality.py --variants lsh buckets-sixteenth --out quality
    python benchmarks/more_rounds.py quality lsh-novel-4096-200-0 buckets-sixteenth-novel-4096-200-0
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from reformer.config import LSH, ReformerConfig
from reformer.models.language import ReformerForCausalLM
from reformer.reproduce.texts import corpus_of
from reformer.training.evaluation import score_text

ROUNDS = (1, 2, 4, 8, 16)


def main() -> None:
    """One line of JSON per model and number of rounds, kept in OUT if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.models:
        trained = ReformerForCausalLM.from_pretrained(arguments.folder / name)
        configs = {str(rounds): trained.config.with_num_hashes(rounds) for rounds in ROUNDS}
        for rounds, config in (configs | {"all pairs": _all_pairs(trained.config)}).items():
            model = ReformerForCausalLM(config).eval()
            model.load_state_dict(trained.state_dict())
            bits = _bits_per_byte(model, arguments.folder)
            rows.append({"model": name, "rounds": rounds, "bits_per_byte": bits})
            print(json.dumps(rows[-1]), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")


def _all_pairs(config: ReformerConfig) -> ReformerConfig:
    """One bucket, and a window as long as the sequence."""
    layers = tuple(
        dataclasses.replace(layer, num_hashes=1, num_buckets=1, window_length=config.max_length)
        if isinstance(layer, LSH)
        else layer
        for layer in config.layers
    )
    return dataclasses.replace(config, layers=layers)


def _bits_per_byte(model: ReformerForCausalLM, folder: Path) -> float:
    corpus = corpus_of("novel", folder)
    return score_text(model, corpus.validation, length=model.config.max_length).bits_per_byte


if __name__ == "__main__":
    main()
