"""Experiments judge what they measured, keep it, and do not measure it twice."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reformer.data.files import shipped_novel
from reformer.models.language import ReformerForCausalLM
from reformer.reproduce import quality, retrieval, speed, table2
from reformer.reproduce.findings import Check, Findings
from reformer.reproduce.language import Comparison, measure_language
from reformer.reproduce.report import write_report
from reformer.reproduce.variants import VARIANTS

CONTEXT = {
    "command": "reformer reproduce",
    "date": "2026-01-01",
    "machine": {"processor": "any", "threads": 1, "torch": "2"},
}


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some pages of the novel."""
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_bytes(shipped_novel().read_bytes()[:4000])
    return path


def _silent(sentence: str) -> None:
    pass


def _verdicts(findings: Findings) -> dict[str, bool]:
    return {check.claim: check.passed for check in findings.checks}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_model_of_any_length(name: str) -> None:
    for length in (1024, 16384):
        config = VARIANTS[name](length)
        assert config.max_length == length and len(config.layers) == 4
        assert (config.hidden_size, config.num_heads, config.head_size) == (128, 2, 64)


def test_a_comparison_is_a_function_of_its_name(tmp_path: Path, book: Path) -> None:
    before = torch.get_rng_state()
    case = Comparison("lsh", length=64, seed=3, steps=3, text=str(book))
    first, second = (measure_language(case, tmp_path / name, _silent) for name in "ab")
    assert torch.equal(torch.get_rng_state(), before)
    assert first["losses"] == second["losses"] and len(first["losses"]) == 3
    assert first["bits_per_byte"] == second["bits_per_byte"]
    other = measure_language(dataclasses.replace(case, seed=4), tmp_path / "c", _silent)
    assert other["losses"] != first["losses"]


def test_what_the_journal_holds_is_not_trained_again(tmp_path: Path, book: Path) -> None:
    said: list[str] = []
    cases = [Comparison(variant, 64, 0, 2, str(book)) for variant in ("exact", "local")]
    journal = quality.Journal(tmp_path / "quality.jsonl")
    rows = quality.run_all(cases, journal, tmp_path, said.append)
    assert [row["variant"] for row in rows] == ["exact", "local"]
    assert said
    said.clear()
    again = quality.Journal(tmp_path / "quality.jsonl")
    assert quality.run_all(cases, again, tmp_path, said.append) == rows
    assert not said


def _quality_row(
    variant: str, steps: int, bits: float, seconds: float, seed: int = 0
) -> dict[str, object]:
    case = Comparison(variant, 16384, seed, steps)
    return dataclasses.asdict(case) | {"bits_per_byte": bits, "seconds_per_step": seconds}


def test_quality_fails_where_lsh_is_worse_or_slower() -> None:
    exact, local = _quality_row("exact", 80, 2.5, 10.0), _quality_row("local", 80, 2.4, 2.0)
    for bits, longer, seconds, expected in (
        (2.52, 2.4, 2.0, [True, True]),
        (2.53, 2.4, 2.0, [False, True]),
        (2.52, 2.5, 2.0, [True, False]),
        (2.52, 2.4, 5.1, [True, False]),
    ):
        lsh = [_quality_row("lsh", 80, bits, seconds), _quality_row("lsh", 160, longer, seconds)]
        findings = quality._judge([exact, local, *lsh], [quality.Course(16384, 80, (0,))])
        assert list(_verdicts(findings).values()) == expected


def test_on_code_lsh_must_be_ahead_of_local_attention() -> None:
    course = quality.Course(4096, 80, (0,), "code")
    for lsh, passed in ((2.29, True), (2.3, False)):
        rows = [
            dataclasses.asdict(course.case(kind, 0))
            | {"bits_per_byte": bits, "seconds_per_step": 1.0}
            for kind, bits in (("exact", 2.5), ("lsh", lsh), ("local", 2.3))
        ]
        assert list(_verdicts(quality._judge(rows, [course])).values()) == [True, passed]


def test_seeds_are_judged_by_their_mean() -> None:
    course = quality.Course(16384, 80, (0, 1))
    exact = [_quality_row("exact", 80, 2.5, 10.0, seed) for seed in (0, 1)]
    for bits, passed in ((2.53, True), (2.54, False)):
        lsh = [_quality_row("lsh", 80, 2.52, 1.0), _quality_row("lsh", 80, bits, 1.0, seed=1)]
        findings = quality._judge([*exact, *lsh], [course])
        assert next(iter(_verdicts(findings).values())) == passed


def test_speed_is_flat_or_it_is_not() -> None:
    names = list(speed._contenders())

    def row(length: int, seconds: float) -> dict[str, object]:
        times = dict.fromkeys(names[:-1], seconds) | {"exact": 3.0}
        return {"length": length, "tokens": 2048, "seconds": times}

    flat = speed._judge([row(1024, 1.0), row(2048, 1.1)], 2048)
    assert all(_verdicts(flat).values())
    rising = speed._judge([row(1024, 1.0), row(2048, 1.2)], 2048)
    assert sum(_verdicts(rising).values()) == 1


def test_times_of_all_lengths_are_taken_on_the_same_tokens() -> None:
    rows = speed._time([256, 1024], 1024, repeats=1)
    assert [row["length"] for row in rows] == [256, 1024]
    for row in rows:
        assert row["tokens"] == 1024
        assert set(row["seconds"]) == set(speed._contenders())
        assert min(row["seconds"].values()) > 0


_PEAKS = """
from reformer.reproduce.memory import _peak
print(*(_peak(streams, 8, 2048) for streams in ("exact", "stored")))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_reversible_layers_need_less_memory_than_stored_ones() -> None:
    # In a process of its own: here, other tests have left memory behind for later tensors.
    command = [sys.executable, "-c", _PEAKS]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    reversible, stored = (int(number) for number in done.stdout.split())
    assert 0 < reversible < stored / 2


def test_models_of_all_lengths_have_the_same_weights() -> None:
    for kind in ("exact", "lsh"):
        shapes = [
            {name: x.shape for name, x in ReformerForCausalLM(config).state_dict().items()}
            for stage in retrieval.STAGES
            for config in [retrieval.config(kind, stage.length)]
        ]
        assert all(shape == shapes[0] for shape in shapes)


def test_retrieval_shows_nothing_where_exact_attention_has_not_learnt_it() -> None:
    def row(kind: str, accuracy: float) -> dict[str, object]:
        base = {"attention": kind, "length": 128, "steps": 1, "accuracy_before": 0.1}
        more = 0.97 if kind == "lsh" else None
        return base | {"accuracy": accuracy, "accuracy_more_rounds": more}

    for exact, lsh, expected in (
        (1.0, 0.95, [True, True, True]),
        (0.95, 0.94, [True, False, True]),
        (0.94, 0.95, [False, True, True]),
    ):
        findings = retrieval._judge([row("exact", exact), row("lsh", lsh)], [128])
        assert list(_verdicts(findings).values()) == expected


def test_table_2_judges_every_cell_by_the_paper() -> None:
    accuracy = {"8": 1.0, "4": 0.99, "2": 0.985, "1": 0.90}
    row = {"trained_rounds": 4, "length": 1024, "steps": 1, "seconds": 1, "accuracy": accuracy}
    findings = table2._judge([row], "full")
    assert list(_verdicts(findings).values()) == [True, True, True, False]
    assert "90.00%" in findings.table and "91.9%" in findings.table


def test_a_report_says_pass_or_fail_three_times_over(tmp_path: Path) -> None:
    checks = [Check("it works", "yes", True), Check("it flies", "no", False)]
    findings = Findings(
        "Title", [{"a": 1}], "| a |", checks, lambda axes: axes.plot([1], label="a")
    )
    write_report(tmp_path, "name", findings, CONTEXT)
    written = json.loads((tmp_path / "name.json").read_text())
    assert written["passed"] is False and written["rows"] == [{"a": 1}]
    page = (tmp_path / "name.md").read_text()
    assert "| it works | yes | pass |" in page and "| it flies | no | FAIL |" in page
    assert (tmp_path / "name.png").read_bytes().startswith(b"\x89PNG")
