"""The benchmark runs everyone on the same inputs and writes what it measured."""

import json
from pathlib import Path

import pytest
import torch

from reformer.bench import attention
from reformer.bench.attention import arithmetic_rates, compare, memory, scaling
from reformer.bench.contenders import Exact, OurLocal, Ours, Shape
from reformer.bench.measure import Measured, measure_by_turns, peak_extra_bytes, time_by_turns
from reformer.bench.report import write_report

SMALL = Shape(length=256, num_hashes=2, num_heads=2, head_size=16, window_length=32)


def test_every_contender_gives_an_output_of_the_inputs_size() -> None:
    for contender in (Ours("window"), Ours("chunk"), OurLocal(), Exact()):
        query_key, value = SMALL.inputs()
        assert contender.make(SMALL)(query_key, value).numel() == value.numel()


def test_inputs_are_the_same_for_everyone_and_leave_the_random_stream_alone() -> None:
    before = torch.get_rng_state()
    first, second = SMALL.inputs(), SMALL.inputs()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_who_is_too_slow_gets_one_turn_and_who_is_not_gets_all() -> None:
    turns = {"slow": 0, "quick": 0}

    def work(name: str) -> None:
        turns[name] += 1

    works = {name: (lambda name=name: work(name)) for name in turns}
    times = time_by_turns(works, num_repeats=3, most_seconds=60)
    assert turns == {"slow": 4, "quick": 4}
    assert all(seconds >= 0 for seconds in times.values())
    time_by_turns({"slow": works["slow"]}, num_repeats=3, most_seconds=-1)
    assert turns["slow"] == 5


def test_who_needs_too_much_sits_out_the_longer_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    contenders = (OurLocal("modest"), OurLocal("greedy"), OurLocal("slow"))
    monkeypatch.setattr(attention, "CONTENDERS", contenders)
    measured = {
        "modest": Measured(10.0, 1_000_000),
        "greedy": Measured(10.0, 4_000_000_001),
        "slow": Measured(101.0, None),
    }
    monkeypatch.setattr(
        attention, "measure_by_turns", lambda works, **_: {name: measured[name] for name in works}
    )
    rows = compare([8, 16], num_hashes=1, num_repeats=1, most_seconds=60, say=lambda _: None)
    assert [row["contender"] for row in rows if row["length"] == 8] == list(measured)
    assert [row["contender"] for row in rows if row["length"] == 16] == ["modest"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_sees_what_a_call_allocates_and_frees() -> None:
    def work() -> object:
        return torch.ones(50_000_000).sum()

    turns = measure_by_turns({"work": work}, num_repeats=1, most_seconds=60)
    for extra in (peak_extra_bytes(work), turns["work"].peak_extra_bytes):
        assert extra is not None
        assert 190e6 < extra < 300e6


def test_a_report_holds_every_row(tmp_path: Path) -> None:
    said: list[str] = []
    rows = compare([128], num_hashes=1, num_repeats=1, most_seconds=60, say=said.append)
    results = {
        "machine": {"date": "today", "processor": "any", "threads": 1, "torch": "2", "kernels": ""},
        "command": "reformer bench",
        "comparison": rows,
        "rates": None,
        "scaling": scaling([64, 128], num_hashes=1, num_repeats=1, say=said.append),
        "memory": memory(length=256, rounds=(1,), say=said.append),
        "training": [],
    }
    table = write_report(tmp_path, "attention", results).read_text()
    assert json.loads((tmp_path / "attention.json").read_text())["comparison"] == rows
    assert all(row["contender"] in table for row in rows)
    assert (tmp_path / "attention.png").stat().st_size > 0


def test_rates_are_positive() -> None:
    rates = arithmetic_rates(length=512, num_hashes=1, num_repeats=1)
    assert rates["matmul_rate"] > 0 and rates["forward_rate"] > 0
