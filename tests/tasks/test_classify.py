"""Texts are labelled: classes, several labels, numbers; from files to a table of mistakes."""

import csv
import json
import random
from pathlib import Path

import pytest
import torch

from reformer import LSH, Labels, Local, ReformerConfig, ReformerForSequenceClassification
from reformer.data.labelled import LabelledSource, LabelledTexts, read_labelled, targets
from reformer.data.rows import encode_text
from reformer.data.tokenizer import ByteTokenizer
from reformer.generation.classifying import classify, label_logits
from reformer.models.store import read_config
from tests.cli.conftest import call

WORDS = {"sea": ("whale", "ship", "mast"), "land": ("horse", "field", "barn")}
SMALL = ("--preset", "tiny", "--length", "64", "--evaluate-tokens", "4000", "--batch-size", "8")


def _texts(count: int, seed: int) -> list[tuple[str, str]]:
    """Sentences whose words say which class they are of."""
    draw = random.Random(seed)
    names = [draw.choice(list(WORDS)) for _ in range(count)]
    return [(" ".join(draw.choices(WORDS[name], k=draw.randint(2, 9))), name) for name in names]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        writer.writerows(
            [n, f"{text},\n{text}", label] for n, (text, label) in enumerate(_texts(160, 1))
        )
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, table: Path) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    answer = call("train", table, "--task", "classify", *SMALL, "--steps", 40, "--out", path)
    assert answer.code == 0, answer.err
    assert "144 texts" in answer.out and "confusion matrix" in answer.out
    return path


def test_a_model_learns_to_tell_texts_apart(trained: Path, tmp_path: Path) -> None:
    unseen = tmp_path / "unseen.jsonl"
    texts = _texts(40, 2)
    unseen.write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in texts))
    answer = call("evaluate", trained, unseen, "--json")
    assert answer.code == 0, answer.err
    scores = json.loads(answer.out)
    assert scores["accuracy"] >= 0.9 and scores["macro_f1"] >= 0.9
    confusion = scores["confusion_matrix"]
    right = confusion["sea"]["sea"] + confusion["land"]["land"]
    assert right == pytest.approx(scores["accuracy"] * 40)
    assert confusion["sea"]["sea"] + confusion["sea"]["land"] == sum(n == "sea" for _, n in texts)

    answer = call("classify", trained, unseen, "--json")
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert [line["line"] for line in lines] == list(range(1, 41))
    assert sum(line["labels"] == [n] for line, (_, n) in zip(lines, texts, strict=True)) == right
    assert sum(lines[0]["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert "40  " in call("classify", trained, unseen).out


def test_a_run_resumes_from_the_texts_that_it_kept(table: Path, tmp_path: Path) -> None:
    texts, run = tmp_path / "t.csv", tmp_path / "run"
    texts.write_bytes(table.read_bytes())
    words = ("train", texts, "--task", "classify", *SMALL, "--out", run)
    assert call(*words, "--steps", 2).code == 0
    texts.unlink()
    answer = call("train", "--resume", "--out", run, "--steps", 3)
    assert answer.code == 0, answer.err
    assert "Going on from step 2" in answer.out


def test_several_labels_and_numbers(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    for key, value in (("labels", ["a", "b"]), ("value", 0.5)):
        other = [] if key == "labels" else -0.5
        records = [{"text": "x y", key: value}, {"text": "z", key: other}] * 8
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        run = tmp_path / key
        train = ("train", file, "--task", "classify", *SMALL, "--steps", 2, "--out", run)
        answer = call(*train)
        assert answer.code == 0, answer.err
        (line, *_) = call("classify", run, file, "--json").out.splitlines()
        assert ("values" if key == "value" else "labels") in json.loads(line)
        assert read_config(run)[1].labels.num_labels == (2 if key == "labels" else 1)  # type: ignore[union-attr]
        assert call("evaluate", run, "--json").code == 0


def test_a_model_learns_several_labels_and_numbers(tmp_path: Path) -> None:
    """Which words a text holds, as labels; the share of a word among its words, as a number."""
    draw = random.Random(3)
    for key in ("labels", "value"):
        files = []
        for name, count in (("train", 240), ("unseen", 60)):
            records = []
            for _ in range(count):
                words = draw.choices(("whale", "field"), weights=(draw.random(), 0.5), k=6)
                share = words.count("whale") / len(words)
                records.append(
                    {"text": " ".join(words), "labels": sorted(set(words)), "value": share}
                )
            files.append(tmp_path / f"{key}-{name}.jsonl")
            lines = [json.dumps({"text": r["text"], key: r[key]}) + "\n" for r in records]
            files[-1].write_text("".join(lines))
        run = tmp_path / key
        train = ("train", files[0], "--task", "classify", *SMALL, "--steps", 60, "--out", run)
        answer = call(*train)
        assert answer.code == 0, answer.err
        scores = json.loads(call("evaluate", run, files[1], "--json").out)
        lines = call("classify", run, files[1], "--json").out.splitlines()
        found = [json.loads(line) for line in lines]
        wanted = [json.loads(line)[key] for line in files[1].read_text().splitlines()]
        if key == "value":
            assert scores["r2"] > 0.8
            errors = [(f["values"][0] - w) ** 2 for f, w in zip(found, wanted, strict=True)]
            assert sum(errors) / len(errors) == pytest.approx(scores["loss"], rel=1e-3)
        else:
            assert scores["accuracy"] >= 0.9 and scores["macro_f1"] >= 0.9
            right = [sorted(f["labels"]) == w for f, w in zip(found, wanted, strict=True)]
            assert sum(right) / len(right) == pytest.approx(scores["accuracy"])


def test_a_file_labelled_in_another_way_is_refused(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"text": "a", "value": 1}\n')
    answer = call("evaluate", trained, file)
    assert answer.code == 2
    assert "labelled for regression, and the model learned single_label" in answer.err


def test_targets_are_in_the_order_of_the_names(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("labels,text\nb|a,x\n,y\nb,z\n")
    texts = read_labelled([file])
    assert texts.labels() == Labels(2, "multi_label", ("a", "b"), pooling="mean")
    assert targets(texts, texts.labels()).tolist() == [[1, 1], [0, 0], [0, 1]]
    texts.keep(tmp_path, "kept")
    assert LabelledTexts.kept(tmp_path, "kept") == texts


def test_the_split_keeps_every_text_once(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(50)))
    texts = read_labelled([file])
    first, second = texts.split(3, 10)
    assert len(second.texts) == 5
    assert sorted(t.text for t in first.texts + second.texts) == sorted(t.text for t in texts.texts)


def _model(pooling: str = "mean") -> ReformerForSequenceClassification:
    labels = Labels(3, names=("a", "b", "c"), pooling=pooling)  # type: ignore[arg-type]
    config = ReformerConfig(
        hidden_size=16, num_heads=1, head_size=8, max_length=32, causal=False, labels=labels,
        layers=(Local(4), LSH(2, 8)),
    )  # fmt: skip
    return ReformerForSequenceClassification(config).double().eval()


@torch.no_grad()
def test_padding_changes_no_logit() -> None:
    """Rows together give what they give alone, whichever is longest."""
    model = _model()
    rows = [encode_text("ab" * n, ByteTokenizer()) for n in (1, 7, 16, 3)]
    alone = torch.cat([model(torch.from_numpy(row)[None]).logits for row in rows])
    assert (label_logits(model, rows) - alone).abs().max() < 1e-6


@torch.no_grad()
def test_the_mean_hears_of_every_token_and_the_first_does_not() -> None:
    torch_rows = [torch.full((1, 32), 65), torch.full((1, 32), 65)]
    torch_rows[1][0, -1] = 66
    # Four tokens of context a layer do not reach from the last of 32 tokens to the first.
    local = ReformerConfig(
        hidden_size=16, num_heads=1, head_size=8, max_length=32, causal=False, layers=(Local(4),)
    )
    for pooling, moved in (("mean", True), ("first", False)):
        config = ReformerConfig(**{**vars(local), "labels": Labels(pooling=pooling)})  # type: ignore[arg-type]
        model = ReformerForSequenceClassification(config).eval()
        one, other = (model(ids).logits for ids in torch_rows)
        assert (not torch.equal(one, other)) is moved


@torch.no_grad()
def test_long_texts_are_the_mean_of_their_parts() -> None:
    model, text = _model(), "the whale " * 8
    parts = [text[start : start + 32] for start in (0, 32, 64)]
    rows = [encode_text(part, ByteTokenizer()) for part in parts]
    weights = torch.tensor([[len(row)] for row in rows]) / len(text)
    expected = (label_logits(model, rows) * weights).sum(0).softmax(-1)
    (scores,) = classify(model, ByteTokenizer(), [text])
    assert [scores[name] for name in "abc"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_sequences_are_functions_of_their_number_and_show_every_text(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("text,label\n" + "".join(f"{'abc' * n},{n % 2}\n" for n in range(1, 21)))
    texts = read_labelled([file])
    source = LabelledSource(texts, texts.labels(), ByteTokenizer(), 16, seed=1)
    whole, tail = source.batch(0, 40), source.batch(30, 10)
    assert torch.equal(whole["labels"][30:], tail["labels"])
    assert torch.equal(whole["input_ids"][30:, : tail["input_ids"].shape[1]], tail["input_ids"])
    assert whole["input_ids"].shape[1] == 16
    lengths = (whole["segment_ids"] >= 0).sum(1)
    for epoch in (lengths[:20], lengths[20:]):
        assert sorted(epoch.tolist()) == sorted(min(16, 3 * n) for n in range(1, 21))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("t.csv", "text,label\na,x\nb\n", "t.csv, line 3: it has 1 fields"),
        ("t.csv", 'text,label\n"a\nb",x\n,y\n', "t.csv, line 4: text is ''"),
        ("t.csv", 'text,label\n"a,x\n', "t.csv, line 2"),
        ("t.csv", "text,label\na,x\nb,x\n", "t.csv, line 2 and on: all texts have the label 'x'"),
        ("t.csv", "text,label\n", "t.csv holds no labelled texts"),
        ("t.csv", "text,text,label\na,b,x\n", "t.csv, line 1: the header has 'text' 2 times"),
        ("t.csv", "text,value\na,1\n", "t.csv, line 2 and on: all texts have the value 1"),
        ("t.csv", "text,value\na,1\nb,1e300\n", "t.csv, line 3: value is '1e300': scale"),
        ("t.csv", "text,labels\na,x|y\n", "t.csv, line 2: it is the only text"),
        ("t.csv", "text,label\na,x\nb,y\n", "is on no text but those kept for validation"),
        ("t.csv", "text,labels\na,\nb,\n", "t.csv, line 2 and on: no text has a label"),
        ("t.csv", "text,value\na,1\nb,nan\n", "line 3: value is 'nan'"),
        ("t.csv", "words,label\na,x\nb,y\n", "line 2: text is None"),
        ("t.csv", "text,class\na,x\n", "line 2: it has none of label, labels and value"),
        ("t.jsonl", '{"text": "a", "label": "x"}\n\nnot json\n', "t.jsonl, line 3: it is not JSON"),
        ("t.jsonl", "[]\n", "line 1: it must be an object"),
        ("t.jsonl", "[" * 100000, "line 1"),
        ("t.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', "line 2: it has no 'label'"),
        (
            "t.jsonl",
            '{"text": "a", "value": [1]}\n{"text": "b", "value": [1, 2]}\n',
            "line 2: value",
        ),
        ("t.jsonl", '{"text": "a", "labels": [1]}\n', "line 1: labels is [1]"),
        ("t.txt", "hello\n", "must be .csv, .tsv or .jsonl"),
    ],
)
def test_bad_files_end_in_a_sentence_that_names_the_line(
    name: str, text: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(text)
    out = tmp_path / "run"
    answer = call("train", file, "--task", "classify", *SMALL, "--steps", 1, "--out", out)
    assert answer.code == 2
    assert reason in answer.err
    assert not out.exists()


def test_what_cannot_be_classified_is_said(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"text": "a", "label": "sea"}\n{"text": "a", "label": "sky"}\n')
    answer = call("evaluate", trained, file)
    assert answer.code == 2
    sentence = "line 2: the label 'sky' is not one that the model learned: land, sea"
    assert f"{file}, {sentence}" in answer.err
    file.write_bytes(b'{"text": "a"}\n\xff\n')
    answer = call("classify", trained, file)
    assert answer.code == 2 and "line 2: it is not UTF-8" in answer.err
    file.write_text('{"words": "a"}\n')
    assert "line 1: text is None" in call("classify", trained, file).err
    assert call("train", "--task", "classify").code == 2
