"""Memory and time of whole training steps, each in a process of its own.

    python benchmarks/memory.py presets       one step of novel-512k, five of million
    python benchmarks/memory.py throughput    tokens per second by length
    python benchmarks/memory.py depth         6, 12 and 24 layers, three ways of differentiating
    python benchmarks/memory.py plan          the planner's prediction beside the measured peak
    python benchmarks/memory.py options       what is learned with freed gradients, narrow moments

A peak is the most resident memory of the whole process, Python and torch included
(``ru_maxrss``). Results go to benchmarks/results/memory.json, row by row; a row that is there is
not measured again.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from reformer.config import LSH, Local, ReformerConfig
from reformer.presets import million, preset
from reformer.settings import TrainingSettings

RESULTS = Path(__file__).parent / "results" / "memory.json"
ALLOCATOR = {"THP_MEM_ALLOC_ENABLE": "1", "MALLOC_MMAP_THRESHOLD_": str(4 << 20)}
"""Large pages, and tensors that return to the system when freed: as ``reformer train`` does."""

Result = dict[str, Any]
Rows = dict[str, Callable[[], Result]]
"""What a part measures, row by row."""


def measure_apart(
    config: ReformerConfig, settings: TrainingSettings, steps: int, blocks: str = "reversible"
) -> Result:
    """Train so many steps in a new process; its peak in bytes, seconds and losses by step."""
    job = {
        "config": config.to_dict(),
        "settings": settings.to_dict(),
        "steps": steps,
        "blocks": blocks,
    }
    command = [sys.executable, __file__, "job"]
    environment = os.environ | ALLOCATOR
    done = subprocess.run(
        command, input=json.dumps(job), stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode != 0:
        return {"failed": f"exit code {done.returncode}"}
    return dict(json.loads(done.stdout))


def run_job(job: Result) -> Result:
    """What the new process does: the training loop's own update, on the novel."""
    from reformer.data.corpus import prepare_corpus
    from reformer.data.files import shipped_novel
    from reformer.data.sources import TextSource
    from reformer.data.tokenizer import ByteTokenizer
    from reformer.models.language import ReformerForCausalLM
    from reformer.training.loop import TrainingState, update
    from reformer.training.optim import build_optimizer

    config = ReformerConfig.from_dict(job["config"])
    settings = TrainingSettings.from_dict(job["settings"])
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare_corpus(
            Path(folder), (str(shipped_novel()),), None, ByteTokenizer(), config.vocab_size
        )
        source = TextSource(corpus.train, config.max_length, config.seed)
        model = ReformerForCausalLM(config).train()
        if job["blocks"] == "checkpointed":
            _checkpoint_blocks(model)
        state = TrainingState(model, build_optimizer(model, settings))
        seconds, losses, peaks = [], [], []
        for _ in range(job["steps"]):
            started = time.perf_counter()
            row = update(state, source, settings)
            seconds.append(round(time.perf_counter() - started, 2))
            losses.append(round(float(row["train_bits_per_byte"]), 4))
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
            print(f"step {len(peaks)}: {seconds[-1]} s, {losses[-1]} bits", file=sys.stderr)
    return {
        "peak_bytes": peaks[-1],
        "peak_bytes_of_one_step": peaks[0],
        "seconds": seconds,
        "bits_per_byte": losses,
        "num_parameters": sum(p.numel() for p in model.parameters()),
    }


def _checkpoint_blocks(model: Any) -> None:
    """Residual blocks whose activations torch's checkpointing computes again, one at a time.

    The same branches on two float streams: what one does to reach the memory of reversible
    layers without them. Hash rotations are seeded, so both computations find the same buckets.
    """
    from torch.utils.checkpoint import checkpoint

    from reformer.models import reformer as trunk

    def stack(x: Any, blocks: Any, records: Any, kind: str, memory: None) -> Any:
        import torch

        def block_of(block: Any, record: Any) -> Any:
            def run(first: Any, second: Any) -> Any:
                first = first + block(second, "attention", record)
                return first, second + block(first, "feed_forward", record)

            return run

        first, second = x, x
        for block, record in zip(blocks, records, strict=True):
            first, second = checkpoint(
                block_of(block, record),
                first,
                second,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        return torch.cat((first, second), dim=-1)

    trunk.reversible_stack = stack  # type: ignore[assignment, attr-defined]


def depth() -> Rows:
    """Peak and time at three depths: reversible, stored, and checkpointed by torch."""
    config, settings = million()
    width: Result = {
        "hidden_size": 128,
        "feed_forward_size": 256,
        "num_heads": 1,
        "axial_sizes": (32, 96),
    }
    config = dataclasses.replace(config, max_length=65536, axial_shape=(256, 256), **width)
    ways: dict[str, Result] = {
        "reversible": {"streams": "exact"},
        "stored": {"streams": "stored"},
        "checkpointed": {},
    }
    rows: Rows = {}
    for way, fields in ways.items():
        for layers in (6, 12, 24):
            deep = dataclasses.replace(config, layers=config.layers[:2] * (layers // 2), **fields)
            blocks = "checkpointed" if way == "checkpointed" else "reversible"
            rows[f"{layers}, {way}"] = partial(measure_apart, deep, settings, 1, blocks)
    return rows


def presets() -> Rows:
    """The two presets that read a whole book at once: one step, and five that lower the loss."""
    rows: Rows = {}
    for name, steps in (("novel-512k", 1), ("million", 5)):
        config, settings = preset(name)
        settings = dataclasses.replace(settings, warmup_steps=1)
        rows[name] = partial(measure_apart, config, settings, steps)
    return rows


def throughput() -> Rows:
    """Tokens per second by length, the same model and one sequence per step."""
    config, settings = million()

    def measure(length: int) -> Result:
        shorter = dataclasses.replace(config, max_length=length)
        result = measure_apart(shorter, settings, steps=max(1, min(4, 10**6 // length)))
        return result | {"tokens_per_second": round(length / min(result["seconds"]))}

    return {str(length): partial(measure, length) for length in (16384, 131072, 1048576)}


def plan_settings() -> dict[str, tuple[ReformerConfig, TrainingSettings]]:
    """Models and ways to train them that differ in what takes the memory."""
    small, settings = million()
    one = dataclasses.replace(settings, batch_size=1)

    def vary(length: int, **fields: Any) -> ReformerConfig:
        layers = fields.pop("layers", small.layers)
        shape, sizes = fields.pop("axes", (None, None))
        fields |= {"axial_shape": shape, "axial_sizes": sizes}
        return dataclasses.replace(small, max_length=length, layers=layers, **fields)

    local, lsh = Local(window_length=64, rotary_base=10000.0), LSH(num_hashes=8, window_length=64)
    later = LSH(num_hashes=2, window_length=64, values="next")
    return {
        "32,768 tokens": (vary(32768), one),
        "two sequences of 16,384": (vary(16384), dataclasses.replace(one, batch_size=2)),
        "width 512, 8 heads": (
            vary(16384, hidden_size=512, feed_forward_size=2048, num_heads=8), one
        ),
        "vocabulary of 16,384": (vary(16384, vocab_size=16384, slice_length=4096), one),
        "stored activations": (vary(16384, streams="stored"), one),
        "bfloat16": (vary(32768), dataclasses.replace(one, precision="bfloat16")),
        "85 million parameters": (
            vary(1024, hidden_size=768, feed_forward_size=3072, num_heads=12, layers=(local,) * 12),
            one,
        ),
        "85 million, gradients freed, bfloat16 moments": (
            vary(1024, hidden_size=768, feed_forward_size=3072, num_heads=12, layers=(local,) * 12),
            dataclasses.replace(one, gradients="freed", moments="bfloat16"),
        ),
        "wide heads": (vary(32768, hidden_size=128, num_heads=8), one),
        "wide heads, values of the next token": (
            vary(32768, hidden_size=128, num_heads=8, layers=(local, later) * 3), one
        ),
        "four sequences twice": (
            vary(8192, layers=(local,) * 4),
            dataclasses.replace(one, batch_size=4, accumulation_steps=2),
        ),
        "24 layers, 8 hashes, float streams": (
            vary(16384, layers=(local, lsh) * 12, streams="float"), one
        ),
    }  # fmt: skip


SAVINGS: dict[str, dict[str, Any]] = {
    "kept, float32": {},
    "freed": {"gradients": "freed"},
    "kept, bfloat16 moments": {"moments": "bfloat16"},
    "freed, bfloat16 moments": {"gradients": "freed", "moments": "bfloat16"},
}
"""Ways to spend less memory on what grows with the number of parameters. Gradients computed twice
are not among them: tests show that they train as kept ones do, to the last bit."""


def options() -> Rows:
    """Bits per byte of a small model's last 50 steps in each way, from three seeds."""
    config, settings = preset("tiny")
    config = dataclasses.replace(config, hidden_size=64, feed_forward_size=128, max_length=256)
    # So long a memory that a second moment rounded to the nearest bfloat16 would never decay.
    settings = dataclasses.replace(settings, steps=300, learning_rate=4e-3, adam_beta2=0.999)

    def measure(saving: dict[str, Any]) -> Result:
        changed = dataclasses.replace(settings, **saving)
        results = [
            measure_apart(dataclasses.replace(config, seed=seed), changed, settings.steps)
            for seed in range(3)
        ]
        last = [result["bits_per_byte"][-50:] for result in results]
        return {"bits_per_byte": [round(sum(bits) / len(bits), 4) for bits in last]}

    return {name: partial(measure, saving) for name, saving in SAVINGS.items()}


def plan() -> Rows:
    """The planner's prediction beside the measured peak of two steps."""
    from reformer.training import planner

    def measure(config: ReformerConfig, settings: TrainingSettings) -> Result:
        predicted = planner.plan(config, settings).total
        result = measure_apart(config, settings, steps=2)
        return {
            "predicted_bytes": predicted,
            "peak_bytes": result["peak_bytes"],
            "ratio": round(predicted / result["peak_bytes"], 3),
        }

    return {name: partial(measure, *setting) for name, setting in plan_settings().items()}


PARTS = {
    "presets": presets,
    "throughput": throughput,
    "plan": plan,
    "depth": depth,
    "options": options,
}


def main() -> None:
    """Measure the rows of one part that have no result yet, and write each down as it comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "job"])
    part = parser.parse_args().part
    if part == "job":
        print(json.dumps(run_job(json.load(sys.stdin))))
        return
    results: Result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known = results.setdefault(part, {})
    for name, measure in PARTS[part]().items():
        if name not in known:
            known[name] = measure()
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")
            print(name, known[name], flush=True)


if __name__ == "__main__":
    main()
