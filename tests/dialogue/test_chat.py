"""A chat remembers: its answers are those computed from scratch, whatever was done before."""

import json

import pytest

from reformer.config import LSH, Local
from reformer.data.chat_template import ChatTemplate, Message, chat_encoder
from reformer.data.tokenizer import ByteTokenizer
from reformer.generation import chat as chat_module
from reformer.generation.chat import Chat, ChatError
from reformer.generation.decode import generate
from reformer.generation.sampling import Sampling

from ..decoding.models import make_model

ENCODER = chat_encoder(ChatTemplate(), ByteTokenizer())
LAYERS = (Local(window_length=16, rotary_base=10000.0), LSH(2, window_length=16, num_buckets=8))
MODEL = make_model(LAYERS, vocab_size=256, max_length=4096)
WARM = Sampling(temperature=1.0)


def _chat(model=MODEL, max_new_tokens=12, **settings):
    return Chat(model, ENCODER, max_new_tokens=max_new_tokens, sampling=WARM, **settings)


def _say(chat, text):
    return "".join(chat.reply(text))


def _from_scratch(chat, number, model=MODEL, name=None):
    """The ids of answer ``number``, by one pass over everything before it."""
    before = chat.turns[:number]
    ids = ENCODER.start() + ([] if chat.system is None else chat.system.token_ids)
    ids += [i for turn in before for i in turn.token_ids] + ENCODER.answer(name)
    # The random stream of an answer is named by its place in the conversation.
    sampler_seed = chat.seed
    cache = chat_module.new_cache(model)
    continuation = chat_module.Continuation(
        cache.new_row(), ids, chat_module.Sampler(WARM, 256, sampler_seed, number),
        max_new_tokens=chat.max_new_tokens, stop_ids=ENCODER.markers.values(),
    )  # fmt: skip
    while continuation.finish_reason is None:
        chat_module.advance(model, cache, [continuation])
    written = continuation.output
    if continuation.finish_reason == "stop":
        written = written[:-1]
    return [*ENCODER.answer(name), *written, ENCODER.markers["end"]]


def test_answers_are_those_computed_from_scratch():
    chat = _chat()
    chat.set_system("Be brief.")
    for number in range(8):
        _say(chat, f"Message {number}")
    for number in (1, 3, 15):
        assert chat.turns[number].token_ids == _from_scratch(chat, number)


@pytest.mark.slow
def test_two_hundred_turns():
    model = make_model(LAYERS, vocab_size=256, max_length=16384)
    chat = _chat(model)
    for number in range(200):
        _say(chat, f"Message {number}")
    for number in (1, 199, 399):
        assert chat.turns[number].token_ids == _from_scratch(chat, number, model)


def test_a_turn_reads_only_what_it_adds(monkeypatch):
    read = []
    append = type(MODEL.reformer).append

    def watched(self, input_ids, cache):
        read.append(sum(map(len, input_ids)))
        return append(self, input_ids, cache)

    monkeypatch.setattr(type(MODEL.reformer), "append", watched)
    chat = _chat()
    for number in range(10):
        read.clear()
        _say(chat, "twelve bytes")
        added = sum(len(turn.token_ids) for turn in chat.turns[-2:])
        # The end of the answer before is read with this turn's message.
        assert sum(read) <= added + 2, number


def test_undo_is_as_if_it_had_not_been_said():
    chat, plain = _chat(), _chat()
    for text in ("one", "two"):
        assert _say(chat, text) == _say(plain, text)
    _say(chat, "a mistake")
    chat.undo()
    assert _say(chat, "three") == _say(plain, "three")
    assert chat.messages == plain.messages
    for _ in range(3):
        chat.undo()
    assert chat.messages == []
    with pytest.raises(ChatError, match="nothing to undo"):
        chat.undo()


def test_a_system_message_changes_what_follows():
    chat = _chat()
    _say(chat, "one")
    chat.set_system("Speak like a whaler.")
    _say(chat, "two")
    assert chat.turns[3].token_ids == _from_scratch(chat, 3)
    chat.set_system("")
    _say(chat, "three")
    assert chat.turns[5].token_ids == _from_scratch(chat, 5)
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 3


def test_somebody_with_a_name_answers(tmp_path):
    chat = _chat()
    _say(chat, "Who are you?")
    chat.answer_as("Ahab")
    _say(chat, "And you?")
    ids = ENCODER.answer("Ahab")
    assert bytes(ids) == b"\x03Ahab:"
    turn = chat.turns[3]
    assert turn.message.name == "Ahab"
    assert turn.token_ids[: len(ids)] == ids
    assert turn.token_ids == _from_scratch(chat, 3, name="Ahab")
    chat.save(tmp_path / "c.json")
    other = _chat()
    other.load(tmp_path / "c.json")
    assert other.messages == chat.messages
    chat.answer_as(None)
    _say(chat, "Farewell")
    assert chat.turns[5].message.name is None
    for name in ("", "a:b", "two\nlines", "x" * 65):
        with pytest.raises(ChatError, match="the name is"):
            chat.answer_as(name)


def test_a_saved_conversation_goes_on(tmp_path):
    chat, again = _chat(), _chat()
    chat.set_system("Be brief.")
    _say(chat, "grüße")
    chat.save(tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["messages"][0]["role"] == "system"
    _say(again, "something else")
    again.load(tmp_path / "c.json")
    assert again.messages == chat.messages


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"messages": []}', '{"messages": [1]}'])
def test_what_is_no_conversation_is_not_loaded(tmp_path, text):
    chat = _chat()
    _say(chat, "one")
    before = chat.messages
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ChatError, match="is not a conversation"):
        chat.load(tmp_path / "c.json")
    with pytest.raises(ChatError, match="cannot read"):
        chat.load(tmp_path / "none.json")
    assert chat.messages == before


def test_a_long_conversation_is_cut_at_turns():
    model = make_model(LAYERS, vocab_size=256, max_length=128)
    chat = _chat(model)
    for number in range(12):
        _say(chat, f"message {number}")
        ids = chat._row.input_ids
        assert len(ids) <= 128
        kept = [i for turn in chat.turns[chat.forgotten :] for i in turn.token_ids]
        assert (ENCODER.start() + kept)[: len(ids)] == ids
    assert chat.forgotten > 0
    assert len(chat.messages) == 24


def test_what_is_too_long_is_refused_and_changes_nothing():
    model = make_model(LAYERS, vocab_size=256, max_length=64)
    chat = _chat(model)
    _say(chat, "one")
    before = chat.messages
    with pytest.raises(ChatError, match="say less"):
        chat.reply("x" * 60)
    with pytest.raises(ChatError, match="say less"):
        chat.set_system("x" * 60)
    chat.set_system("x" * 30)
    with pytest.raises(ChatError, match="together|room for"):
        chat.reply("x" * 30)
    assert chat.messages[1:] == before


def test_a_broken_off_answer_counts_as_far_as_it_was_read():
    chat = _chat()
    pieces = chat.reply("one")
    shown = next(piece for piece in pieces if piece)
    pieces.close()
    assert chat.messages[1] == Message("assistant", shown)
    _say(chat, "two")
    assert chat.turns[3].token_ids == _from_scratch(chat, 3)


def test_generate_and_chat_agree():
    ids = ENCODER.conversation([Message("user", "one")])
    greedy = Chat(MODEL, ENCODER, max_new_tokens=12, sampling=Sampling(temperature=0))
    _say(greedy, "one")
    written = list(
        generate(
            MODEL, ids, max_new_tokens=12, sampling=Sampling(temperature=0),
            stop_ids=ENCODER.markers.values(),
        )
    )  # fmt: skip
    assert greedy.turns[1].token_ids[1:-1] == [i for i in written if i not in range(1, 6)]
