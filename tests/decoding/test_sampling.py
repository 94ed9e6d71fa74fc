"""Filters of a distribution, each against its definition; and stop strings."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reformer.data.tokenizer import ByteTokenizer
from reformer.generation.sampling import Sampler, Sampling, SamplingError, probabilities
from reformer.generation.text import StopStrings, WrittenText, encode_prompt, stream_text

LOGITS = st.lists(st.floats(-8, 8), min_size=2, max_size=30).map(torch.tensor)


@given(LOGITS, st.integers(1, 40))
def test_top_k_keeps_the_k_likeliest(logits, k):
    kept = probabilities(logits, Sampling(top_k=k)) > 0
    least = logits.sort(descending=True).values[min(k, len(logits)) - 1]
    assert torch.equal(kept, logits >= least)


@given(LOGITS, st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_set_with_that_mass(logits, p):
    shares = logits.double().softmax(-1)
    kept = probabilities(logits, Sampling(top_p=p)) > 0
    assert float(shares[kept].sum()) >= p - 1e-9
    if kept.sum() > 1:
        assert float(shares[kept].sum() - shares[kept].min()) < p + 1e-9
    if not kept.all():
        assert shares[kept].min() >= shares[~kept].max()


@given(LOGITS, st.floats(0.0, 1.0))
def test_min_p_is_a_share_of_the_likeliest(logits, p):
    shares = logits.double().softmax(-1)
    kept = probabilities(logits, Sampling(min_p=p)) > 0
    clear = (shares - p * shares.max()).abs() > 1e-12
    assert torch.equal(kept[clear], (shares >= p * shares.max())[clear])


def test_the_repetition_penalty_lowers_what_occurred():
    logits = torch.tensor([2.0, 1.5, -1.0, -1.2])
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=2.0), 4, 0)
    assert sampler.choose(logits) == 0
    assert sampler.choose(logits) == 1
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=2.0), 4, 0)
    sampler.observe([0, 1])
    assert sampler.choose(logits) == 0  # 1.0, 0.75, -1.0, -1.2
    sampler.observe([2])
    assert sampler.choose(torch.tensor([-9.0, -9.0, -1.0, -1.2])) == 3


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0])
    sampler = Sampler(Sampling(), 3, 1)
    counts = torch.bincount(torch.tensor([sampler.choose(logits) for _ in range(2000)]))
    torch.testing.assert_close(counts / 2000, logits.softmax(-1), rtol=0, atol=0.04)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": 0},
        {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": math.nan}, {"min_p": -0.1}, {"min_p": math.nan},
        {"repetition_penalty": 0.0}, {"repetition_penalty": math.inf},
    ],
    ids=str,
)  # fmt: skip
def test_values_that_cannot_be(wrong):
    with pytest.raises(SamplingError, match=next(iter(wrong))):
        Sampling(**wrong)


@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_its_first_stop_string_however_it_is_cut(pieces, strings):
    text = "".join(pieces)
    places = [text.find(string) for string in strings if string in text]
    written = WrittenText(ByteTokenizer(), strings)
    shown = "".join(written.feed(byte) for byte in text.encode()) + written.finish()
    assert shown == written.text == text[: min(places, default=None)]
    assert written.ended == bool(places)
    stop = StopStrings(strings)
    assert "".join(map(stop.feed, pieces)) + stop.finish() == shown


def test_what_cannot_become_a_stop_string_is_shown_at_once():
    stop = StopStrings(["END"])
    assert [stop.feed(piece) for piece in ("a", "E", "x", "EN", "EN", "D", "no")] == [
        "a", "", "Ex", "", "EN", "", "",
    ]  # fmt: skip
    assert stop.found == "END"


def test_characters_come_out_whole():
    ids = encode_prompt("größe", ByteTokenizer())
    assert list(stream_text(ids, ByteTokenizer())) == ["g", "r", "ö", "ß", "e"]
    assert encode_prompt("", ByteTokenizer()) == [10]
