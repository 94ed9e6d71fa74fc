"""What a generated token costs, at growing contexts and beside the other Reformers.

    python benchmarks/decoding.py --out benchmarks/results/decoding.json

Times are CPU seconds of this process (`time.process_time`) on one thread, so that other work on
the machine does not count; medians over repeats. The model has the novel preset's widths and
layers, with random weights and tokens: cost does not depend on what they say.
"""

import argparse
import dataclasses
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from reformer import ReformerForCausalLM
from reformer.generation.extend import extend, new_cache
from reformer.ops.dispatch import native_kernels, use_backend
from reformer.ops.randomness import generator
from reformer.presets import preset

STEPS = 40


def seconds_per_call(call, repeats=STEPS):
    """Median CPU seconds of one call."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return statistics.median(times)


def make_model(max_length):
    config, _ = preset("novel")
    return ReformerForCausalLM(dataclasses.replace(config, max_length=max_length)).eval()


def read(model, cache, count):
    """Fill a cache with random tokens; CPU seconds."""
    started = time.process_time()
    for start in range(0, count, 16384):
        ids = torch.randint(0, 256, (min(16384, count - start),), generator=generator(start))
        extend(model, [ids.tolist()], cache)
    return time.process_time() - started


def growing_contexts(contexts, turns=10):
    """One model for all lengths: tokens per second and memory at each context, by turns."""
    model = make_model(contexts[-1] + 4096)
    cache = new_cache(model, undo_length=0)
    rows, held = [], []
    for context in contexts:
        seconds = read(model, cache, context - cache.lengths[0])
        held.append(cache.fork())
        rows.append(
            {
                "context": context,
                "cache_bytes": cache.num_bytes,
                "bytes_per_token": cache.num_bytes / context,
                "seconds_to_read_on": seconds,
            }
        )
        print(rows[-1], flush=True)
    times = [[] for _ in contexts]
    for _ in range(turns):
        for each, kept in zip(times, held, strict=True):
            each.append(seconds_per_call(lambda kept=kept: extend(model, [[7]], kept)))
    for row, each in zip(rows, times, strict=True):
        row["tokens_per_second"] = 1 / statistics.median(each)
    print({row["context"]: row["tokens_per_second"] for row in rows}, flush=True)
    return rows


def beside_others(context, turns=8):
    """Tokens per second at one context: ours, our torch path, and the others' Reformers."""
    model = make_model(context + 1024)
    cache = new_cache(model, undo_length=0)
    read(model, cache, context)
    ids = torch.randint(0, 256, (1, context), generator=generator(1))

    def step():
        extend(model, [[7]], cache)

    with torch.no_grad():
        theirs, their_step = hugging_face(model.config, ids)
        ours, their_cached = [], []
        for _ in range(turns):
            ours.append(seconds_per_call(step, 20))
            their_cached.append(seconds_per_call(their_step, 3))
        with use_backend("torch"):
            torch_path = seconds_per_call(step, 10)
        whole = seconds_per_call(lambda: theirs(ids, use_cache=False), 3)
        pytorch = seconds_per_call(reformer_pytorch(model.config, ids), 3)
    ratios = [cached / own for own, cached in zip(ours, their_cached, strict=True)]
    found = {
        "context": context,
        "ours": 1 / statistics.median(ours),
        "ours_torch_path": 1 / torch_path,
        "hugging_face_cached": 1 / statistics.median(their_cached),
        "hugging_face_whole_pass": 1 / whole,
        "reformer_pytorch_whole_pass": 1 / pytorch,
        "ratio_to_hugging_face_cached": statistics.median(ratios),
        "ratios_by_turn": sorted(ratios),
    }
    print(found, flush=True)
    return found


def hugging_face(ours, ids):
    """transformers' Reformer of the same shape, and a step of it with its cache."""
    from transformers import ReformerConfig, ReformerModelWithLMHead

    context = ids.shape[1]
    config = ReformerConfig(
        is_decoder=True, vocab_size=256, hidden_size=ours.hidden_size,
        feed_forward_size=ours.feed_forward_size, num_attention_heads=ours.num_heads,
        attention_head_size=ours.head_size, attn_layers=["local", "lsh", "local", "lsh"],
        num_hashes=4, num_buckets=[16, 32], lsh_attn_chunk_length=64, local_attn_chunk_length=32,
        max_position_embeddings=context * 2, axial_pos_shape=[256, context // 128],
        axial_pos_embds_dim=[96, 96], use_cache=True, hash_seed=1,
    )  # fmt: skip
    theirs = ReformerModelWithLMHead(config).eval()
    past = theirs(ids, use_cache=True).past_buckets_states
    return theirs, lambda: theirs(ids[:, -1:], past_buckets_states=past, use_cache=True)


def reformer_pytorch(ours, ids):
    """A step of reformer-pytorch: it has no cache, so a whole pass. All four layers are LSH."""
    from reformer_pytorch import ReformerLM

    theirs = ReformerLM(
        num_tokens=256, dim=ours.hidden_size, depth=4, max_seq_len=ids.shape[1], causal=True,
        heads=ours.num_heads, dim_head=ours.head_size, bucket_size=64, n_hashes=4, ff_mult=3,
    ).eval()  # fmt: skip
    return lambda: theirs(ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--contexts", type=int, nargs="+", default=[4096, 65536, 1048576])
    parser.add_argument("--peer-context", type=int, default=16384)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "kernels": native_kernels().instruction_set,
        "beside_others": beside_others(arguments.peer_context),
        "growing_contexts": growing_contexts(arguments.contexts),
    }
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
