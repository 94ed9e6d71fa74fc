"""Hugging Face's Reformer before and after ``speed_up``, alternating, in one process.

    python benchmarks/huggingface_speed_up.py --out benchmarks/results/huggingface_speed_up.json

Six layers, local and LSH, width 256, 4 heads of 64, chunks of 64, 4 rounds: forward, and
forward with backward; medians in seconds and their ratio.

Outputs are compared at each position, relative to the largest logit, for several models.
Hashing rounds: a vector between two buckets may fall into either, and under the chunk rule one
that does moves the border of every chunk after it. So there are two comparisons more:

- "nudged": their own model against itself, its word embeddings larger by one part in ten million;
- "same_hashes": the fast model, told the buckets that theirs found.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
import transformers
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

from reformer.interop.huggingface import fused, speed_up
from reformer.ops.dispatch import native_kernels
from reformer.ops.hashing import hash_vectors


def build(length: int, seed: int) -> transformers.ReformerModelWithLMHead:
    torch.manual_seed(seed)
    config = transformers.ReformerConfig(
        vocab_size=258, hidden_size=256, feed_forward_size=512, num_attention_heads=4,
        attention_head_size=64, attn_layers=["local", "lsh"] * 3, is_decoder=True,
        axial_pos_shape=(64, length // 64), axial_pos_embds_dim=(64, 192),
        max_position_embeddings=length, lsh_attn_chunk_length=64, local_attn_chunk_length=64,
        num_hashes=4, num_buckets=[2 ** (bits := (length // 64).bit_length() // 2),
                                   2 * (length // 64) // 2**bits],
        hash_seed=0, hidden_dropout_prob=0.0, local_attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )  # fmt: skip
    return transformers.ReformerModelWithLMHead(config)


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def forward(model, ids):
    model.eval()
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def forward_backward(model, ids):
    model.train()
    model(ids, labels=ids, use_cache=False).loss.backward()
    model.zero_grad()


class Hashes:
    """The buckets [B, H, R, L] of a model's LSH layers in one forward pass, theirs or fast."""

    def __init__(self, told: list[torch.Tensor] | None = None) -> None:
        self.found: list[torch.Tensor] = []
        self._told = told

    def __enter__(self) -> "Hashes":
        self._theirs = LSHSelfAttention._hash_vectors

        def theirs(layer, vectors, num_hashes, mask, *rest):
            flat = self._theirs(layer, vectors, num_hashes, mask, *rest)
            per_round = flat.view(*vectors.shape[:2], num_hashes, -1)
            number = layer.num_buckets[0] * layer.num_buckets[1]
            self.found.append(per_round % number)
            return flat

        def fast(vectors, *rest):
            own = hash_vectors(vectors, *rest)
            told = None if self._told is None else self._told[len(self.found)].to(own.dtype)
            self.found.append(own if told is None else told)
            return self.found[-1]

        LSHSelfAttention._hash_vectors, fused.hash_vectors = theirs, fast
        return self

    def __exit__(self, *_) -> None:
        LSHSelfAttention._hash_vectors, fused.hash_vectors = self._theirs, hash_vectors


def compare(length: int, seed: int) -> dict:
    """How far the fast model, and two controls, are from theirs, for one draw of weights."""
    model = build(length, seed)
    fast = speed_up(copy.deepcopy(model))
    nudged = copy.deepcopy(model)
    with torch.no_grad():
        nudged.reformer.embeddings.word_embeddings.weight.mul_(1 + 1e-7)
    ids = torch.randint(258, (1, length), generator=torch.Generator().manual_seed(seed))
    with Hashes() as hashes:
        expected = forward(model, ids)
    rows: dict = {"length": length, "seed": seed}
    for name, other, told in (
        ("fast", fast, None), ("nudged", nudged, None), ("same_hashes", fast, hashes.found),
    ):  # fmt: skip
        with Hashes(told) as others:
            found = forward(other, ids)
        distance = (found - expected).abs().amax(dim=-1) / expected.abs().max()
        pairs = zip(others.found, hashes.found, strict=True)
        rows[name] = {
            "flips": sum(int((a.long() != b).sum()) for a, b in pairs),
            "median": float(distance.median()),
            "largest": float(distance.max()),
            "within_1e-5": float((distance < 1e-5).double().mean()),
        }
    print(rows, flush=True)
    return rows


def measure(length: int, repeats: int) -> dict:
    """Seconds of both, in turn."""
    model = build(length, 0)
    fast = speed_up(copy.deepcopy(model))
    ids = torch.randint(258, (1, length), generator=torch.Generator().manual_seed(0))
    row: dict = {"length": length}
    for run in (forward, forward_backward):
        times: dict[str, list[float]] = {"theirs": [], "fast": []}
        for _ in range(repeats):
            times["theirs"].append(seconds(run, model, ids))
            times["fast"].append(seconds(run, fast, ids))
        before, after = (statistics.median(times[name]) for name in ("theirs", "fast"))
        row[run.__name__] = {"theirs": before, "fast": after, "ratio": before / after}
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", type=int, default=6)
    options = parser.parse_args()
    results = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "kernels": native_kernels().instruction_set,
        "times": [measure(length, options.repeats) for length in options.lengths],
        "differences": [
            compare(length, seed) for length in options.lengths for seed in range(options.models)
        ],
    }
    options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
