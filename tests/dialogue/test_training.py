"""Training on conversations: only what the assistant says counts."""

import json
import lzma
import math
from itertools import chain

import numpy as np
import pytest
import torch

from reformer import Local, ReformerConfig, ReformerForCausalLM, cli
from reformer.data.chat_template import ChatTemplate, Message, chat_encoder
from reformer.data.dialogues import (
    DialogueSource,
    assistant_labels,
    prepare_dialogues,
    write_dialogues,
)
from reformer.data.files import InputError
from reformer.data.tokenizer import ByteTokenizer
from reformer.tasks.dialogue import DialogueValidation

ENCODER = chat_encoder(ChatTemplate(), ByteTokenizer())
DIALOGUES = [
    [("user", f"What is {n} and {n}?"), ("assistant", f"It is {2 * n}."), ("user", "Thanks, grüße")]
    for n in range(40)
]


@pytest.fixture
def file(tmp_path):
    lines = [
        json.dumps({"id": n, "messages": [{"role": r, "content": c} for r, c in dialogue]})
        for n, dialogue in enumerate(DIALOGUES)
    ]
    path = tmp_path / "dialogues.jsonl.xz"
    path.write_bytes(lzma.compress("\n".join(lines).encode()))
    return path


def _ids(dialogue):
    return ENCODER.conversation([Message(*turn) for turn in dialogue])[:-1]


def test_stores_hold_the_conversations_as_a_chat_writes_them(file, tmp_path):
    corpus = prepare_dialogues(tmp_path / "data", [file], None, ENCODER, 256)
    assert corpus.train.tokens.tolist() == list(chain.from_iterable(map(_ids, DIALOGUES[:38])))
    assert corpus.validation.tokens.tolist() == list(chain.from_iterable(map(_ids, DIALOGUES[38:])))


def test_labels_are_what_the_assistant_writes():
    ids = np.array(_ids(DIALOGUES[7]))
    labels = assistant_labels(ids, ENCODER.markers)
    assert bytes(labels[labels >= 0].tolist()) == b"It is 14.\x04"
    assert (labels[labels >= 0] == ids[labels >= 0]).all()


def test_sequences_begin_with_a_message_and_repeat_by_number(file, tmp_path):
    corpus = prepare_dialogues(tmp_path / "data", [file], None, ENCODER, 256)
    source = DialogueSource(corpus.train, 100, 5, ENCODER)
    whole, tail = source.batch(0, 30), source.batch(20, 10)
    assert torch.equal(whole["input_ids"][20:], tail["input_ids"])
    assert torch.equal(whole["labels"][20:], tail["labels"])
    assert (whole["input_ids"][:, 0] == ENCODER.markers["start"]).all()
    assert set(whole["input_ids"][:, 1].tolist()) == {
        ENCODER.markers["user"], ENCODER.markers["assistant"]
    }  # fmt: skip
    with pytest.raises(InputError, match="length is 99999"):
        DialogueSource(corpus.train, 99999, 5, ENCODER)


@torch.no_grad()
def test_a_conversation_sees_nothing_of_the_one_before_it(file, tmp_path):
    corpus = prepare_dialogues(tmp_path / "data", [file], None, ENCODER, 256)
    batch = DialogueSource(corpus.train, 200, 5, ENCODER).batch(0, 8)
    model = _model(256)
    del batch["labels"]
    packed = model(**batch).logits
    for row, ids in enumerate(batch["input_ids"].tolist()):
        starts = [i for i, token_id in enumerate(ids) if token_id == ENCODER.markers["start"]]
        assert len(starts) > 3
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            alone = model(torch.tensor([ids[start:end]])).logits[0]
            torch.testing.assert_close(packed[row, start:end], alone)


def test_names_are_written_before_what_is_said(tmp_path):
    messages = [
        {"role": "user", "name": "Ishmael", "content": "Who are you?"},
        {"role": "assistant", "name": "Ahab", "content": "Thy captain."},
    ]
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n")
    store = write_dialogues(tmp_path, "all", [path], ENCODER, 256)
    written = b"\x01\x02Ishmael: Who are you?\x04\x03Ahab: Thy captain.\x04"
    assert bytes(store.tokens.tolist()) == written
    labels = assistant_labels(np.array(store.tokens), ENCODER.markers)
    assert bytes(labels[labels >= 0].tolist()) == b"Ahab: Thy captain.\x04"


def _model(max_length):
    config = ReformerConfig(
        hidden_size=16, num_heads=1, head_size=8, max_length=max_length, layers=(Local(4),)
    )
    return ReformerForCausalLM(config).double().eval()


@torch.no_grad()
def test_validation_is_the_cost_of_the_assistants_bytes(file, tmp_path):
    corpus = prepare_dialogues(tmp_path / "data", [file], None, ENCODER, 256)
    model = _model(512)
    costs = []
    for dialogue in DIALOGUES[38:]:
        ids = torch.tensor([_ids(dialogue)])
        logs = model(ids).logits[0].log_softmax(-1)
        labels = assistant_labels(ids[0].numpy(), ENCODER.markers)
        costs += [-float(logs[place - 1, labels[place]]) for place in np.flatnonzero(labels >= 0)]
    validation = DialogueValidation(corpus.validation, 1, ENCODER)
    measured = validation.measure(model, whole=True)["validation_bits_per_byte"]
    assert measured == pytest.approx(sum(costs) / math.log(2) / len(costs), rel=1e-9)
    assert len(costs) == len("It is 76.|It is 78.|")
    (first,) = validation.measure(model, whole=False).values()
    assert first == pytest.approx(sum(costs[:10]) / math.log(2) / 10, rel=1e-9)


def test_conversations_longer_than_the_model_are_scored_once(file, tmp_path):
    corpus = prepare_dialogues(tmp_path / "data", [file], None, ENCODER, 256)
    model = _model(16)
    model.head.weight.data.zero_()
    measured = DialogueValidation(corpus.validation, 10**6, ENCODER).measure(model, whole=True)
    # A model that knows nothing: 8 bits for every byte, if each is counted once.
    assert measured["validation_bits_per_byte"] == pytest.approx(8, abs=1e-9)


def _run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_a_model_learns_conversations_and_starts_from_another(file, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    train = ["train", file, "--task", "dialogue", "--preset", "tiny"]
    assert _run(*train, "--steps", "20", "--out", first) == 0
    capsys.readouterr()
    assert _run("evaluate", first, "--json") == 0
    before = json.loads(capsys.readouterr().out)["bits_per_byte"]
    assert before < 8
    assert (first / "chat.json").is_file()
    assert (
        _run(*train, "--steps", "1", "--init", first, "--learning-rate", "1e-9", "--out", second)
        == 0
    )
    capsys.readouterr()
    assert _run("evaluate", second, "--json") == 0
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] == pytest.approx(before, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 conversations"),
        ('{"messages": [{"role": "user", "content": "one"}]}', "1 conversations"),
        ('\n{"messages": []}', "line 2: messages must be a list with at least one"),
        ("not json", "line 1: it is not JSON"),
        ("[]", "line 1: it must be an object"),
        ("[" * 100000, "line 1"),
        (
            '{"messages": [{"role": "user", "content": "a", "name": "a:b"}]}',
            "line 1: message 1 has",
        ),
    ],
)
def test_bad_conversations_end_in_a_sentence(text, reason, tmp_path, capsys):
    path = tmp_path / "d.jsonl"
    path.write_text(text)
    out = tmp_path / "run"
    assert _run("train", path, "--task", "dialogue", "--preset", "tiny", "--out", out) == 2
    assert reason in capsys.readouterr().err
    assert not out.exists()


def test_conversations_must_be_named(capsys):
    assert _run("train", "--task", "dialogue", "--preset", "tiny") == 2
    assert "name a file" in capsys.readouterr().err
