"""How often a hash falls differently in cached decoding than in one pass over the whole text.

    python benchmarks/exactness.py --out benchmarks/results/exactness.json

A hash is a choice: where two buckets score alike to the last bits, two correct computations
of the same vector can choose differently. Counted in float32 with the novel preset's model:
random weights and random tokens, sequence after sequence, the first half read as a prompt and
the second token by token. "Explained" are positions whose logits are within 1e-5 once the whole
pass is told the cache's choices.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

import reformer.nn.attention
from reformer import ReformerForCausalLM
from reformer.generation.extend import extend_all, new_cache
from reformer.ops.decode import LinkedTokens
from reformer.ops.dispatch import native_kernels
from reformer.ops.lsh_attention import hash_buckets
from reformer.ops.randomness import generator
from reformer.presets import preset

CLOSE = 1e-5


def decoded(model, ids):
    """Logits [L, V] by the cache, and the buckets [1, H, R, L] of each LSH layer."""
    cache = new_cache(model)
    half = len(ids) // 2
    parts = [extend_all(model, [ids[:half]], cache)[0]]
    parts += [extend_all(model, [[token_id]], cache)[0] for token_id in ids[half:]]
    stores = [kept.store for kept in cache.rows[0].layers if isinstance(kept, LinkedTokens)]
    buckets = [store.slice("bucket", 0, len(ids)).permute(1, 2, 0)[None] for store in stores]
    return torch.cat(parts), buckets


@torch.no_grad()
def whole(model, ids, told=None):
    """The same by one pass, with its own choices or with those that it is told."""
    own = []

    def watched(*args, **settings):
        found = hash_buckets(*args, **settings)
        own.append(found if told is None else told[len(own)].to(found.dtype))
        return own[-1]

    reformer.nn.attention.hash_buckets = watched
    logits = model(torch.tensor([ids])).logits[0]
    reformer.nn.attention.hash_buckets = hash_buckets
    return logits, own


def compare(config, seed, length):
    """Counts for one sequence."""
    model = ReformerForCausalLM(dataclasses.replace(config, max_length=length, seed=seed)).eval()
    ids = torch.randint(0, config.vocab_size, (length,), generator=generator(seed)).tolist()
    cached, buckets = decoded(model, ids)
    logits, own = whole(model, ids)
    told, _ = whole(model, ids, buckets)
    pairs = list(zip(buckets, own, strict=True))
    return {
        "hashes": sum(mine.numel() for mine, _ in pairs),
        "flips": sum(int((mine != theirs).sum()) for mine, theirs in pairs),
        "tokens": length,
        "within_1e-5": int(((cached - logits).abs().amax(-1) <= CLOSE).sum()),
        "explained": int(((cached - told).abs().amax(-1) <= CLOSE).sum()),
        "same_likeliest": int((cached.argmax(-1) == logits.argmax(-1)).sum()),
        "sequences_without_a_flip": int(all(torch.equal(a.to(b.dtype), b) for a, b in pairs)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=40)
    parser.add_argument("--length", type=int, default=5000)
    arguments = parser.parse_args()
    config, _ = preset("novel")
    rows = [compare(config, n, arguments.length) for n in range(arguments.sequences)]
    totals = {name: sum(row[name] for row in rows) for name in rows[0]}
    results = {
        "torch": torch.__version__,
        "kernels": native_kernels().instruction_set,
        "sequences": arguments.sequences,
        "length": arguments.length,
        **totals,
        "flips_per_million_hashes": 1e6 * totals["flips"] / totals["hashes"],
    }
    print(json.dumps(results, indent=2))
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
