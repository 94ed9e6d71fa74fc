"""The same seed gives the same run in any process, and the user's random numbers stay theirs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.small import assert_same_bits, small_config, small_model, tokens
from tests.trust.tiers import record, tiers

ROOT = Path(__file__).parents[2]

TRAIN = """
import json, sys
import torch
from tests.models.small import small_config, small_model, tokens

torch.set_num_threads(1)
torch.manual_seed(int(sys.argv[1]))
before = torch.get_rng_state()
model = small_model(small_config())
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
losses = []
for step in range(20):
    input_ids = tokens(seed=step)
    optimizer.zero_grad()
    loss = model(input_ids, labels=input_ids).loss
    loss.backward()
    optimizer.step()
    losses.append(loss.detach().item().hex())
print(json.dumps({"losses": losses, "untouched": torch.equal(before, torch.get_rng_state())}))
"""


@tiers(small=3, middle=6, full=12)
def test_processes_train_alike_to_the_last_bit(count: int) -> None:
    """20 steps with dropout and fresh hash rotations, under different global seeds."""
    runs = []
    for first in range(0, count, 3):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", TRAIN, str(seed)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in range(first, first + 3)
        ]
        for process in processes:
            output, _ = process.communicate(timeout=1800)
            assert process.returncode == 0
            runs.append(json.loads(output))
    assert all(run == runs[0] for run in runs)
    assert runs[0]["untouched"]
    assert len(set(runs[0]["losses"])) == 20
    record("N7", "processes that train 20 steps with dropout from one seed", count,
           different_losses=0, global_random_streams_moved=0)  # fmt: skip


def run_once(draw: int | None, training: bool) -> list[Tensor]:
    model = small_model(small_config(4)).train(training)
    loss = model(tokens(), labels=tokens(), draw=draw).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("draw", "training"), [(None, True), (7, True), (None, False)])
def test_a_pass_neither_reads_nor_moves_the_global_random_stream(
    draw: int | None, training: bool
) -> None:
    torch.manual_seed(1)
    expected = run_once(draw, training)
    after_one = torch.rand(5)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(5), after_one)
    torch.manual_seed(2)
    assert_same_bits(run_once(draw, training), expected)


def test_threads_do_not_change_the_evaluation() -> None:
    """Integers decide who sees whom, so more threads can only change rounding."""
    model = small_model(small_config(4)).eval()
    alone = model(tokens()).logits
    try:
        torch.set_num_threads(2)
        together = model(tokens()).logits
    finally:
        torch.set_num_threads(1)
    assert (alone - together).abs().max() <= 1e-4
