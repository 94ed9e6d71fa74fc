"""Hugging Face's Reformer before and after ``speed_up``, alternating, in one process.

    python benchmarks/huggingface_speed_up.py [--lengths 4096 16384] [--repeats 5]

Six layers, local and LSH, width 256, 4 heads of 64, chunks of 64, 4 rounds: forward, and
forward with backward. Prints medians in seconds and their ratio.

Outputs are compared at each position, relative to the largest logit. Hashing rounds: a vector
between two buckets may fall into either, and what its neighbours see then changes. So "nudged"
beside it is their own model against itself with embeddings changed by one part in ten million.
"""

import argparse
import copy
import statistics
import time

import torch
import transformers

from reformer.interop.huggingface import speed_up


def build(length: int) -> transformers.ReformerModelWithLMHead:
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


def compared(found, expected) -> str:
    """Differences by position."""
    by_position = (found - expected).abs().amax(dim=-1) / expected.abs().max()
    same = (by_position < 1e-5).double().mean()
    return f"median {float(by_position.median()):.1e}, within 1e-5 at {float(same):.2%}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for length in options.lengths:
        model = build(length)
        fast = speed_up(copy.deepcopy(model))
        ids = torch.randint(258, (1, length), generator=torch.Generator().manual_seed(0))
        nudged = copy.deepcopy(model)
        with torch.no_grad():
            nudged.reformer.embeddings.word_embeddings.weight.mul_(1 + 1e-7)
        expected = forward(model, ids)
        print(f"length {length}")
        for name, other in (("fast", fast), ("nudged", nudged)):
            print(f"  {name:16}  {compared(forward(other, ids), expected)}")
        for run in (forward, forward_backward):
            times = {"theirs": [], "fast": []}
            for _ in range(options.repeats):
                times["theirs"].append(seconds(run, model, ids))
                times["fast"].append(seconds(run, fast, ids))
            before, after = (statistics.median(times[name]) for name in ("theirs", "fast"))
            print(f"  {run.__name__:16}  {before:.3f} s  {after:.3f} s  {before / after:.1f} x")


if __name__ == "__main__":
    main()
