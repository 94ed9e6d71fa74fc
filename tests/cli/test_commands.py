"""The commands do what their names say, from files to text."""

import dataclasses
import gzip
import json
import math
from pathlib import Path

import pytest

from reformer import Full
from reformer.cli.model_flags import ModelArguments, ModelFields
from reformer.models.language import ReformerForCausalLM
from reformer.presets import qa
from reformer.training.metrics import read_metrics
from tests.cli.conftest import TINY, call


def test_training_leaves_a_run_that_scripts_can_read(trained: Path) -> None:
    rows = read_metrics(trained / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows[-1].keys() >= {
        "step", "train_bits_per_byte", "validation_bits_per_byte", "tokens_per_second"
    }  # fmt: skip
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert ReformerForCausalLM.from_pretrained(trained).config.max_length == 32
    described = json.loads((trained / "run.json").read_text())
    assert described["settings"]["steps"] == 12


def test_training_says_what_it_will_do_and_what_came_out(book: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = call("train", book, *TINY, "--steps", 2, "--out", run)
    for expected in (
        "parameters",
        "7,600 tokens",
        "32 tokens",
        "Memory",
        str(run),
        "bits per byte",
    ):
        assert expected in answer.out, expected
    assert "A sample:" in answer.out


@pytest.mark.parametrize("fast", [True, False])
def test_who_asks_for_bfloat16_hears_when_it_is_slow(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr("reformer.cli.train.multiplies_bfloat16", lambda device: fast)
    words = (*TINY, "--steps", 1, "--precision", "bfloat16", "--out", tmp_path / "run")
    answer = call("train", book, *words)
    assert answer.code == 0, answer.err
    assert ("no instructions for bfloat16" in answer.out) is not fast


def test_without_files_the_novel_is_learned(tmp_path: Path) -> None:
    answer = call("train", "--preset", "tiny", "--steps", 1, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert "1,154,471 tokens" in answer.out


def test_by_default_runs_are_numbered_and_the_last_is_resumed(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert call("train", book, *TINY, "--steps", 1).code == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["tiny-1", "tiny-2"]
    before = Path("runs/tiny-1/metrics.jsonl").read_bytes()
    assert call("train", "--preset", "tiny", "--resume", "--steps", 3).code == 0
    assert Path("runs/tiny-1/metrics.jsonl").read_bytes() == before
    assert len(read_metrics(Path("runs/tiny-2/metrics.jsonl"))) == 3


def test_flags_change_the_model_and_its_training(book: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    layers = ["--layers", "lsh", "local", "full", "--num-hashes", 3]
    sizes = ["--hidden-size", 24, "--axial-shape", 8, 4, "--axial-sizes", 8, 16, "--seed", 5]
    answer = call("train", book, *TINY, *layers, *sizes, "--steps", 1, "--out", run)
    assert answer.code == 0, answer.err
    config = ReformerForCausalLM.from_pretrained(run).config
    assert [type(layer).__name__ for layer in config.layers] == ["LSH", "Local", "Full"]
    assert config.layers[0].num_hashes == 3  # type: ignore[union-attr]
    assert config.layers[0].window_length == 16  # type: ignore[union-attr]
    assert (config.hidden_size, config.axial_shape, config.seed) == (24, (8, 4), 5)


def test_a_layer_of_another_type_leaves_those_beside_it_as_the_preset_has_them() -> None:
    preset, _ = qa()
    fields = {field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)}
    model = ModelFields(**fields)
    first, _, last = preset.layers
    assert first != last
    exact = ModelArguments(layers=("local", "full", "local"), model=model).config()
    assert exact.layers == (first, Full(), last)
    longer = ModelArguments(layers=("lsh", "lsh", "lsh", "local"), model=model).config()
    assert longer.layers == (preset.layers[1],) * 3 + (first,)


def test_a_short_text_shortens_the_model(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_bytes(b"All work and no play makes Jack a dull boy.\n" * 10)
    answer = call("train", text, "--preset", "tiny", "--steps", 1, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    text.write_bytes(text.read_bytes()[:400])
    longer = ["--hidden-size", 8, "--preset", "novel", "--steps", 1, "--out", tmp_path / "run2"]
    answer = call("train", text, *longer)
    assert answer.code == 0, answer.err
    assert "The input is short: the sequence length is 380" in answer.out
    assert ReformerForCausalLM.from_pretrained(tmp_path / "run2").config.max_length == 380


def test_evaluation_speaks_json(trained: Path, book: Path, tmp_path: Path) -> None:
    packed = tmp_path / "book.gz"
    packed.write_bytes(gzip.compress(book.read_bytes()))
    plain = json.loads(call("evaluate", trained, book, "--json").out)
    both = json.loads(call("evaluate", trained, book, packed, "--json").out)
    assert 2 < plain["bits_per_byte"] < 8
    assert plain["num_bytes"] == plain["num_tokens"] == 8000
    assert plain["perplexity_per_token"] == pytest.approx(2 ** plain["bits_per_byte"])
    assert both["bits_per_byte"] == pytest.approx(plain["bits_per_byte"])
    assert [f["bits_per_byte"] for f in both["files"]] == [plain["bits_per_byte"]] * 2
    # Repeating an evaluation, and shortening the context.
    assert json.loads(call("evaluate", trained, book, "--json").out) == plain
    shorter = json.loads(call("evaluate", trained, book, "--json", "--length", 4).out)
    assert shorter["context_length"] == 4
    assert shorter["bits_per_byte"] != plain["bits_per_byte"]


def test_a_run_alone_is_evaluated_on_what_it_kept_for_validation(trained: Path) -> None:
    found = json.loads(call("evaluate", trained, "--json").out)
    assert found["num_bytes"] == 400
    assert f"{found['bits_per_byte']:.4f}" in call("evaluate", trained).out


def test_the_same_seed_writes_the_same_text(trained: Path) -> None:
    words = ["generate", trained, "--prompt", "Call me", "--max-new-tokens", 60]
    first, again = call(*words), call(*words)
    assert first.code == 0 and len(first.out) > 20
    assert first.out == again.out
    assert call(*words, "--seed", 1).out != first.out
    greedy = [*words, "--temperature", 0]
    assert call(*greedy).out == call(*greedy, "--seed", 9).out
    assert call(*words, "--top-k", 1).out == call(*greedy).out


def test_a_tokenizer_goes_with_its_run(book: Path, tmp_path: Path) -> None:
    tokenizer, run = tmp_path / "tok" / "tokenizer.json", tmp_path / "run"
    answer = call("tokenizer", "train", book, "--vocab-size", 300, "--out", tokenizer)
    assert answer.code == 0, answer.err
    words = [*TINY, "--steps", 2, "--tokenizer", tokenizer, "--out", run]
    answer = call("train", book, *words)
    assert answer.code == 0, answer.err
    tokenizer.unlink()
    found = json.loads(call("evaluate", run, book, "--json").out)
    assert found["num_bytes"] == 8000 and found["num_tokens"] < 7000
    total = math.log2(found["perplexity_per_token"]) * found["num_tokens"]
    assert found["bits_per_byte"] == pytest.approx(total / 8000)
    assert call("generate", run, "--prompt", "Call", "--max-new-tokens", 5).code == 0


def test_the_copy_task_is_trained_and_evaluated_at_other_numbers_of_rounds(tmp_path: Path) -> None:
    run = tmp_path / "run"
    sizes = ["--length", 16, "--vocab-size", 8, "--hidden-size", 16, "--feed-forward-size", 16]
    answer = call("train", "--preset", "copy", *sizes, "--steps", 2, "--out", run)
    assert answer.code == 0, answer.err
    assert "validation accuracy" in answer.out
    for num_hashes in (1, 8):
        found = json.loads(call("evaluate", run, "--json", "--num-hashes", num_hashes).out)
        assert 0 <= found["accuracy"] <= 1


def test_plans_and_presets_are_printed() -> None:
    plan = json.loads(call("plan", "--preset", "enwik8", "--json").out)
    smaller = json.loads(
        call("plan", "--preset", "enwik8", "--length", 1024, "--axial-shape", 32, 32, "--json").out
    )
    assert plan["total"] > smaller["total"] > 2**30
    assert "gradients" in call("plan").out
    listed = call("presets").out
    assert all(name in listed for name in ("novel", "copy", "enwik8"))


def test_help_shows_the_presets_own_values() -> None:
    tiny, novel = (call("train", "--preset", name, "--help").out for name in ("tiny", "novel"))
    assert "--steps" in tiny and tiny != novel
    assert "(default: 32)" in tiny
