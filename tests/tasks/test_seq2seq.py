"""A text from a text: from files of pairs to translations, by the commands."""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reformer import Local, ReformerConfig, ReformerEncoderDecoder
from reformer.data.tokenizer import ByteTokenizer, tokenizer_in
from reformer.generation.sampling import Sampling, SamplingError
from reformer.generation.translating import Translation, translate, translate_by_beams
from reformer.training import text_scores
from reformer.training.metrics import read_metrics
from tests.cli.conftest import Answer, call

SMALL = (
    "--preset", "seq2seq", "--hidden-size", 32, "--feed-forward-size", 64, "--head-size", 16,
    "--axial-shape", 16, "--length", 16, "--layers", "local", "--encoder-layers", "local",
)  # fmt: skip


def _pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Words of a few letters, and the same in capitals."""
    draw = random.Random(seed)
    words = ("".join(draw.choices("abcdef", k=draw.randint(1, 6))) for _ in range(count))
    return [(word, word.upper()) for word in words]


def _write(file: Path, pairs: list[tuple[str, str]]) -> Path:
    file.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned to write capitals."""
    folder = tmp_path_factory.mktemp("seq2seq")
    file = _write(folder / "pairs.tsv", _pairs(1000, 1))
    trained = call(
        "train", file, "--task", "seq2seq", *SMALL, "--steps", 250, "--batch-size", 32,
        "--learning-rate", 8e-3, "--warmup-steps", 30, "--evaluate-every", 125,
        "--evaluate-tokens", 200, "--out", folder / "run",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert "1,000 pairs" not in trained.out and "950 pairs" in trained.out
    assert "(right: " in trained.out
    return folder / "run"


def test_a_model_learns_to_write_what_the_source_says(run: Path, tmp_path: Path) -> None:
    unseen = _write(tmp_path / "unseen.tsv", _pairs(60, 2))
    scores = json.loads(call("evaluate", run, unseen, "--json").out)
    assert scores["exact_match"] >= 90
    assert scores["bits_per_byte"] < 0.5
    assert {"bleu", "chrf", "rouge_l"} <= scores.keys()
    kept = json.loads(call("evaluate", run, "--json").out)
    rows = read_metrics(run / "metrics.jsonl")
    assert kept["bits_per_byte"] == pytest.approx(scores["bits_per_byte"], rel=1.5)
    assert rows[-1]["validation_bits_per_byte"] < rows[124]["validation_bits_per_byte"]
    assert 0 < rows[-1]["train_bits_per_byte"] < 1


def _translate(run: Path, *words: object, text: str | None = None, tmp_path: Path) -> Answer:
    if text is None:
        return call("translate", run, *words)
    (tmp_path / "lines.txt").write_text(text)
    return call("translate", run, tmp_path / "lines.txt", *words)


def test_one_line_in_one_line_out(run: Path, tmp_path: Path) -> None:
    lines = ["abc", "", "fade", "b" * 6, "   ", "cab"]
    text = "\n".join(lines) + "\n"
    greedy = _translate(run, text=text, tmp_path=tmp_path)
    assert greedy.code == 0, greedy.err
    assert [line.lower() for line in greedy.out.splitlines()] == [line.strip() for line in lines]
    for batch_size in (1, 3):
        answer = _translate(run, "--batch-size", batch_size, text=text, tmp_path=tmp_path)
        assert answer.out == greedy.out
    beams = _translate(run, "--num-beams", 4, "--json", text=text, tmp_path=tmp_path)
    found = [json.loads(line) for line in beams.out.splitlines()]
    assert [record["line"] for record in found] == [1, 2, 3, 4, 5, 6]
    assert "".join(f"{record['target']}\n" for record in found) == greedy.out
    assert all(-1 < found[n]["log_probability"] < 0 for n in (0, 2, 5))
    assert {record["finish_reason"] for record in found} == {"stop"}


def test_sources_are_read_from_records_and_pairs_too(run: Path, tmp_path: Path) -> None:
    records, pairs = tmp_path / "a.jsonl", tmp_path / "b.tsv"
    records.write_text('{"source": "abc"}\n{"source": "fed", "target": "x"}\n')
    pairs.write_text("abc\tx\nfed\ty\n")
    assert call("translate", run, records).out == call("translate", run, pairs).out == "ABC\nFED\n"


def test_a_source_that_is_too_long_is_cut_with_a_word_about_it(run: Path, tmp_path: Path) -> None:
    answer = _translate(run, "--max-new-tokens", 5, text="ab\n" + "c" * 40, tmp_path=tmp_path)
    assert answer.code == 0
    assert answer.err == (
        "reformer: line 2 is longer than this model's 16 tokens: its end is not read\n"
    )
    assert answer.out.splitlines()[0] == "AB"
    assert len(answer.out.splitlines()[1]) <= 5


def test_the_python_functions_agree_with_each_other(run: Path) -> None:
    model, tokenizer = ReformerEncoderDecoder.from_pretrained(run), tokenizer_in(run)
    (one,) = translate(model, tokenizer, ["face"])
    assert one == Translation("FACE", list(b"FACE"), "stop")
    beams = translate_by_beams(model, tokenizer, "face", num_beams=3)
    assert beams[0].text == "FACE" and len({beam.text for beam in beams}) == 3
    chances = [math.exp(beam.log_probability or 0) for beam in beams]
    assert chances == sorted(chances, reverse=True) and sum(chances) <= 1
    drawn = [
        translate(model, tokenizer, ["face"] * 2, sampling=Sampling(temperature=3.0), seed=seed)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] == drawn[0][1]
    with pytest.raises(SamplingError, match="max_new_tokens is 17: this model writes from 1 to 16"):
        translate(model, tokenizer, ["a"], max_new_tokens=17)


def test_two_processes_with_half_a_model_each_train_what_one_does(tmp_path: Path) -> None:
    file, alone, parts = (
        _write(tmp_path / "pairs.tsv", _pairs(60, 1)),
        tmp_path / "a",
        tmp_path / "b",
    )
    words = (
        "train", file, "--task", "seq2seq", *SMALL, "--steps", 3, "--batch-size", 4,
        "--evaluate-tokens", 60,
    )  # fmt: skip
    assert call(*words, "--accumulation-steps", 2, "--out", alone).code == 0
    path = os.pathsep.join([os.getcwd(), *(entry for entry in sys.path if entry)])
    torchrun = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "reformer", *words, "--sharded", "--out", parts,
    )  # fmt: skip
    done = subprocess.run(
        [str(word) for word in torchrun], capture_output=True, text=True, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, others = (read_metrics(run / "metrics.jsonl") for run in (alone, parts))
    for name in ("train_bits_per_byte", "gradient_norm"):
        assert [row[name] for row in others] == pytest.approx([row[name] for row in rows], rel=1e-4)
    assert "validation_exact_match" in rows[-1] and "validation_exact_match" not in others[-1]
    kept = json.loads(call("evaluate", parts, "--json").out)
    assert kept["bits_per_byte"] == pytest.approx(others[-1]["validation_bits_per_byte"], rel=0.3)


def test_beams_find_the_likeliest_of_all_texts() -> None:
    """Against every text of two tokens, by whole passes."""
    import torch

    config = ReformerConfig(
        vocab_size=5, hidden_size=8, num_heads=1, head_size=8, max_length=8, init_scale=2.0,
        layers=(Local(4),), encoder_layers=(Local(4),),
    )  # fmt: skip
    model = ReformerEncoderDecoder(config).double().eval()
    source = torch.tensor([[1, 3, 4]])
    texts = [[4], *([a, 4] for a in range(4)), *([a, b] for a in range(4) for b in range(4))]

    def log_probability(text: list[int]) -> float:
        with torch.no_grad():
            logits = model(source, torch.tensor([text])).logits[0].log_softmax(-1)
        return float(sum(logits[place, token] for place, token in enumerate(text)))

    best = sorted(texts, key=log_probability, reverse=True)

    class Ids(ByteTokenizer):
        vocab_size = 4

        def encode(self, chunks: Any) -> Any:
            yield [1, 3]

    found = translate_by_beams(model, Ids(), "", num_beams=25, length_penalty=0.0, max_new_tokens=2)
    whole = [b.token_ids + ([4] if b.finish_reason == "stop" else []) for b in found]
    assert whole == best
    assert found[0].log_probability == pytest.approx(log_probability(best[0]), abs=1e-9)


def test_scores_are_those_of_known_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["the cat sat on the mat", "qué día más azul"]
    same = text_scores.text_scores(wanted, wanted)
    assert {name: round(value, 6) for name, value in same.items()} == {
        "exact_match": 100, "bleu": 100, "chrf": 100, "rouge_l": 100
    }  # fmt: skip
    scores = text_scores.text_scores(["the cat sat on the mat", "que dia mas azul"], wanted)
    assert scores["exact_match"] == 50
    # Letters with accents are not those without, and no borders of words.
    assert scores["rouge_l"] == pytest.approx(100 * (1 + 0.25) / 2)
    assert text_scores.missing_libraries() is None
    monkeypatch.setattr(text_scores, "_LIBRARIES", ("sacrebleu", "no_such_library"))
    assert text_scores.text_scores(wanted, wanted) == {"exact_match": 100}
    assert "pip install 'reformer-core[seq2seq]'" in (text_scores.missing_libraries() or "")


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("a\tb\nc\n", (), "pairs.tsv, line 2: it has 1 fields between tabs"),
        ("a\tb\n", (), "the input holds one pair"),
        ("a\tb\n" + "c" * 16 + "\td\n", (), "line 2: the source has 17 tokens"),
        (
            "a\tb\nc\td\n",
            ("--preset", "tiny"),
            "encoder_layers is None: start from --preset seq2seq",
        ),
        ("a\tb\nc\td\n", ("--validation", "nowhere.tsv"), "nowhere.tsv"),
    ],
)
def test_bad_files_end_in_a_sentence(
    text: str, options: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    file, out = tmp_path / "pairs.tsv", tmp_path / "run"
    file.write_text(text)
    flags = ("--length", 16) if "tiny" in options else SMALL
    answer = call("train", file, "--task", "seq2seq", *flags, *options, "--steps", 1, "--out", out)
    assert (answer.code, out.exists()) == (2, False)
    assert reason in answer.err


def test_what_cannot_be_translated_ends_in_a_sentence(run: Path, tmp_path: Path) -> None:
    lines = tmp_path / "a.txt"
    lines.write_text("abc\n")
    for words, reason in (
        ((lines, "--num-beams", 0), "num_beams is 0"),
        ((lines, "--num-beams", 2, "--temperature", 1), "beam search draws none"),
        ((lines, "--max-new-tokens", 99), "max_new_tokens is 99"),
        ((lines, "--batch-size", 0), "batch_size is 0"),
        ((tmp_path / "b.txt",), "b.txt"),
    ):
        answer = call("translate", run, *words)
        assert answer.code == 2 and reason in answer.err, answer
    answer = call("generate", run, "--prompt", "abc")
    assert answer.code == 2 and "'ReformerEncoderDecoder'" in answer.err
    answer = call("train", lines, "--preset", "tiny", "--encoder-layers", "local", "--steps", 1)
    assert answer.code == 2 and "ReformerForCausalLM has no encoder" in answer.err
