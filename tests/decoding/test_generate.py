"""What is generated: reproducible, independent of the batch, and what brute force says."""

import itertools

import pytest
import torch

from reformer import LSH, Local
from reformer.generation.beam import beam_search
from reformer.generation.decode import Continuation, PromptError, advance, generate, generate_batch
from reformer.generation.extend import new_cache
from reformer.generation.sampling import Sampler, Sampling

from .models import LAYERS, make_model, random_ids, whole_logits

GREEDY = Sampling(temperature=0)
WILD = Sampling(temperature=1.3, top_k=40, top_p=0.95, min_p=0.01, repetition_penalty=1.1)


@pytest.mark.parametrize("length", [1, 40, 200])
def test_greedy_tokens_are_those_of_the_whole(length):
    model = make_model(LAYERS["mixed"])
    ids = random_ids(length)
    written = list(generate(model, ids, max_new_tokens=30, sampling=GREEDY))
    whole = whole_logits(model, ids + written)
    assert written == whole[length - 1 : -1].argmax(-1).tolist()


def test_a_seed_names_a_text():
    model = make_model(LAYERS["mixed"])
    ids = random_ids(20)
    first, again, other = (
        list(generate(model, ids, max_new_tokens=40, sampling=WILD, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_text_does_not_depend_on_its_batch():
    model = make_model(LAYERS["mixed"])
    prompts = [random_ids(length, length) for length in (1, 9, 150, 33)]
    together = generate_batch(
        model, prompts, max_new_tokens=25, num_samples=2, sampling=WILD, seed=4
    )
    for prompt, (first, second) in zip(prompts, together, strict=True):
        alone = list(generate(model, prompt, max_new_tokens=25, sampling=WILD, seed=4))
        assert first.token_ids == alone
        assert second.token_ids != alone
        assert [second] == generate_batch(
            model, [prompt], max_new_tokens=25, num_samples=2, sampling=WILD, seed=4
        )[0][1:]


def test_stop_tokens_and_limits_end_a_text():
    model = make_model(LAYERS["lsh"])
    written = list(generate(model, [1], max_new_tokens=20, sampling=WILD))
    stop = written[7]
    cut = list(generate(model, [1], max_new_tokens=20, sampling=WILD, stop_ids={stop}))
    assert cut == written[: written.index(stop) + 1]
    ((done,),) = generate_batch(model, [[1]], max_new_tokens=20, sampling=WILD, stop_ids={stop})
    assert (done.token_ids, done.finish_reason) == (cut, "stop")
    ends = lambda prompt, sample, token_id: (prompt, sample, token_id) == (0, 0, stop)  # noqa: E731
    ((done,),) = generate_batch(model, [[1]], max_new_tokens=20, sampling=WILD, ends=ends)
    assert (done.token_ids, done.finish_reason) == (cut, "stop")
    ((done,),) = generate_batch(model, [[1]], max_new_tokens=5, sampling=WILD)
    assert (done.token_ids, done.finish_reason) == (written[:5], "length")


def test_writing_goes_on_past_the_models_length():
    model = make_model(LAYERS["mixed"], max_length=32)
    ids = random_ids(100)
    written = list(generate(model, ids, max_new_tokens=50, sampling=GREEDY))
    # Half the length stays when it is full; that is 17 draws later again.
    for start in (0, 17, 34):
        seen = (ids + written[:start])[-16:]
        whole = whole_logits(model, seen + written[start : start + 16])
        assert written[start : start + 17] == whole[15:].argmax(-1).tolist()[: 50 - start]


def test_generation_leaves_torchs_generator_alone():
    model = make_model(LAYERS["lsh"])
    before = torch.get_rng_state()
    list(generate(model, [1], max_new_tokens=5))
    assert torch.equal(before, torch.get_rng_state())


def test_the_chunk_rule_is_generated_by_whole_passes():
    model = make_model((LSH(rule="chunk", window_length=4, num_buckets=4), Local(8)))
    written = list(generate(model, [1, 2, 3], max_new_tokens=6, sampling=GREEDY))
    ids = [1, 2, 3]
    for token_id in written:
        assert token_id == int(whole_logits(model, ids)[-1].argmax())
        ids.append(token_id)
    stopped = generate(model, [1, 2, 3], max_new_tokens=6, sampling=GREEDY, stop_ids=written[1:2])
    assert list(stopped) == written[: written.index(written[1]) + 1]


@pytest.mark.parametrize("prompt", [[], [0, 61], [-1]])
def test_prompts_that_cannot_be(prompt):
    with pytest.raises(PromptError):
        generate(make_model(LAYERS["lsh"]), prompt, max_new_tokens=1)


def test_continuations_join_and_leave():
    model = make_model(LAYERS["mixed"])
    cache = new_cache(model)
    made = [
        Continuation(
            cache.new_row(), random_ids(8 + seed, seed), Sampler(WILD, 61, seed), max_new_tokens=9
        )
        for seed in range(3)
    ]
    for moved in ([0], [0, 1], [2, 1], [1], [0, 1, 2], [2], [0, 2]):
        advance(model, cache, [made[index] for index in moved])
    for seed, continuation in enumerate(made):
        alone = generate(
            model, random_ids(8 + seed, seed), max_new_tokens=9, sampling=WILD, seed=seed
        )
        assert continuation.output == list(alone)[: len(continuation.output)]


def _all_continuations(model, prompt, length):
    for ids in itertools.product(range(4), repeat=length):
        logs = whole_logits(model, [*prompt, *ids]).log_softmax(-1)
        yield sum(float(logs[len(prompt) - 1 + i, t]) for i, t in enumerate(ids)), list(ids)


def test_wide_beams_find_the_likeliest():
    model = make_model(LAYERS["mixed"], vocab_size=4, hidden_size=8)
    prompt = [1, 2, 3]
    best = sorted(_all_continuations(model, prompt, 4), reverse=True)[:5]
    found = beam_search(model, prompt, num_beams=64, max_new_tokens=4)[:5]
    assert [beam.token_ids for beam in found] == [ids for _, ids in best]
    assert [beam.log_probability for beam in found] == pytest.approx([p for p, _ in best])


def test_one_beam_is_greedy_and_stops():
    model = make_model(LAYERS["mixed"])
    written = list(generate(model, [5], max_new_tokens=12, sampling=GREEDY))
    (beam,) = beam_search(model, [5], num_beams=1, max_new_tokens=12)
    assert beam.token_ids == written
    (beam,) = beam_search(model, [5], num_beams=1, max_new_tokens=12, stop_ids={written[4]})
    assert beam.token_ids == written[: written.index(written[4]) + 1]
