"""``model.generate`` and ``model.stream``: everything by one method, and errors that help."""

import pytest
import torch

from reformer import LSH, Local
from reformer.data.tokenizer import ByteTokenizer
from reformer.generation.beam import beam_search
from reformer.generation.decode import PromptError, generate, generate_batch
from reformer.generation.sampling import Sampling, SamplingError

from .models import LAYERS, make_model, random_ids

BYTES = ByteTokenizer()
WILD = {"temperature": 1.3, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.1}


@pytest.fixture(scope="module")
def model():
    return make_model(LAYERS["mixed"], vocab_size=256)


@pytest.fixture(scope="module")
def chunked():
    return make_model((LSH(rule="chunk", window_length=4, num_buckets=4), Local(8)))


def test_a_prompt_may_be_ids_a_tensor_or_text(model):
    ids = list(b"Call me")
    (one,) = model.generate(ids, max_new_tokens=20, seed=3)
    assert one.token_ids == list(generate(model, ids, max_new_tokens=20, seed=3))
    assert one.text is None
    assert model.generate(torch.tensor(ids), max_new_tokens=20, seed=3) == [one]
    (text,) = model.generate("Call me", tokenizer=BYTES, max_new_tokens=20, seed=3)
    assert text.token_ids == one.token_ids
    assert text.text == bytes(one.token_ids).decode(errors="replace")


def test_every_filter_reaches_the_sampler(model):
    ids = random_ids(20)
    for settings in ({"temperature": 0}, WILD, *({name: value} for name, value in WILD.items())):
        (found,) = model.generate(ids, max_new_tokens=30, seed=5, **settings)
        wanted = generate(model, ids, max_new_tokens=30, seed=5, sampling=Sampling(**settings))
        assert found.token_ids == list(wanted), settings


def test_several_prompts_and_samples_are_what_each_is_alone(model):
    prompts = [random_ids(length, length) for length in (1, 150, 33)]
    together = model.generate(prompts, num_samples=2, max_new_tokens=15, **WILD)
    assert together == [
        model.generate(p, num_samples=2, max_new_tokens=15, **WILD) for p in prompts
    ]
    batch = torch.tensor([random_ids(9, 1), random_ids(9, 2)])
    assert model.generate(batch, max_new_tokens=5) == [
        model.generate(row, max_new_tokens=5) for row in batch
    ]


def test_stop_tokens_and_strings_end_a_completion(model):
    (long,) = model.generate("a", tokenizer=BYTES, max_new_tokens=40, seed=1, top_k=90)
    place = next(n for n in range(5, 39) if all(i < 128 for i in long.token_ids[n : n + 2]))
    stop = bytes(long.token_ids[place : place + 2]).decode()
    cut = long.text.index(stop)
    settings = {"tokenizer": BYTES, "max_new_tokens": 40, "seed": 1, "top_k": 90}
    for given in (stop, ["never", stop]):
        (found,) = model.generate("a", stop=given, **settings)
        assert (found.text, found.finish_reason) == (long.text[:cut], "stop")
        assert "".join(model.stream("a", stop=given, **settings)) == long.text[:cut]
    token_id = long.token_ids[place]
    (found,) = model.generate("a", stop_ids=[token_id], **settings)
    assert found.token_ids == long.token_ids[: long.token_ids.index(token_id) + 1]


def test_beams_come_best_first(model):
    beams = beam_search(model, [1, 2], num_beams=4, max_new_tokens=6)
    found = model.generate([1, 2], num_beams=4, num_samples=3, max_new_tokens=6)
    assert [c.token_ids for c in found] == [beam.token_ids for beam in beams[:3]]
    (best,) = model.generate([1, 2], num_beams=4, max_new_tokens=6, length_penalty=2.0)
    with_penalty = beam_search(model, [1, 2], num_beams=4, max_new_tokens=6, length_penalty=2.0)
    assert best.token_ids == with_penalty[0].token_ids


def test_a_stream_comes_token_by_token(model, monkeypatch):
    append, calls = type(model.reformer).append, []
    monkeypatch.setattr(
        type(model.reformer), "append", lambda *args: calls.append(1) or append(*args)
    )
    tokens = model.stream([1, 2, 3], max_new_tokens=10, seed=2)
    first = [next(tokens), next(tokens)]
    assert len(calls) == 2
    monkeypatch.undo()
    assert first + list(tokens) == model.generate([1, 2, 3], max_new_tokens=10, seed=2)[0].token_ids


def test_the_chunk_rule_has_it_all_but_beams(chunked):
    found = chunked.generate([[1, 2, 3], [4]], num_samples=2, max_new_tokens=6, **WILD)
    for prompt, group in zip([[1, 2, 3], [4]], found, strict=True):
        assert group[0].token_ids == list(
            generate(chunked, prompt, max_new_tokens=6, sampling=Sampling(**WILD))
        )
        assert group[0] != group[1]
        stop = group[1].token_ids[2]
        again = chunked.generate(prompt, num_samples=2, max_new_tokens=6, stop_ids=[stop], **WILD)
        cut = group[1].token_ids.index(stop) + 1
        assert (again[1].token_ids, again[1].finish_reason) == (group[1].token_ids[:cut], "stop")
    ends = lambda *_: True  # noqa: E731
    ((one,),) = generate_batch(chunked, [[1]], max_new_tokens=6, ends=ends)
    assert (len(one.token_ids), one.finish_reason) == (1, "stop")


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "prompt is empty"),
        ([1, 999], {}, "999"),
        ([1, 0.5], {}, "token ids"),
        ("text", {}, "tokenizer"),
        ([1], {"stop": "x"}, "tokenizer"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens"),
        ([1], {"num_samples": 0}, "num_samples"),
        ([1], {"top_p": 2.0}, "top_p"),
        ([1], {"num_beams": 0}, "num_beams"),
        ([1], {"num_beams": 2, "num_samples": 3}, "2 beams"),
        ([1], {"num_beams": 2, "temperature": 0.5}, "temperature"),
        ([1], {"num_beams": 2, "stop": "x", "tokenizer": BYTES}, "stop_ids"),
    ],
)
def test_what_cannot_be_is_said(model, prompt, settings, message):
    with pytest.raises((PromptError, SamplingError), match=message):
        model.generate(prompt, **settings)


def test_an_unknown_setting_is_named_beside_the_known(model):
    with pytest.raises(TypeError, match="'max_tokens' is no setting.*max_new_tokens"):
        model.generate([1], max_tokens=5)
    with pytest.raises(PromptError, match="several prompts"):
        model.stream([[1], [2]])
