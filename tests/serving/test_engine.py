"""The engine: every request gets what it would get alone, and what is given up stops."""

import queue
import threading

import pytest
import torch

from reformer import LSH, Local
from reformer.generation.decode import generate
from reformer.generation.sampling import Sampling
from reformer.serving.engine import Engine, EngineSettings
from reformer.serving.request import BusyError, ClosingError, Failed, Finished, Request, Token

from ..decoding.models import make_model, random_ids, whole_logits

LAYERS = (Local(16, rotary_base=10000.0), LSH(num_hashes=2, window_length=8, num_buckets=16))
MODEL = make_model(LAYERS)
WILD = Sampling(temperature=1.2, top_k=40, repetition_penalty=1.1)


@pytest.fixture
def engine():
    made = []

    def make(model=MODEL, **settings):
        made.append(Engine(model, EngineSettings(**settings)))
        return made[-1]

    yield make
    for each in made:
        each.close(10)


def _collect(events, num_samples=1):
    """The tokens of each sample and why each ended."""
    tokens, reasons = [[] for _ in range(num_samples)], {}
    while len(reasons) < num_samples:
        event = events.get(timeout=30)
        if isinstance(event, Failed):
            return tokens, event
        if isinstance(event, Finished):
            reasons[event.sample] = event.reason
        else:
            tokens[event.sample].append(event)
    return tokens, reasons


def _submit(engine, request):
    events = queue.Queue()
    return engine.submit(request, events.put), events


def _alone(request, model=MODEL):
    return list(
        generate(
            model, request.prompt, max_new_tokens=request.max_new_tokens,
            sampling=request.sampling, seed=request.seed, stop_ids=request.stop_ids,
        )
    )  # fmt: skip


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_requests_get_what_they_get_alone(engine, batch_invariant):
    running = engine(num_slots=4, prefill_tokens=50, batch_invariant=batch_invariant)
    requests = [
        Request(random_ids(length, seed), 4 + seed, WILD, seed=seed)
        for seed, length in enumerate([1, 140, 30, 7, 60, 3])
    ]
    waiting = [(request, _submit(running, request)[1]) for request in requests]
    for request, events in waiting:
        (tokens,), reasons = _collect(events)
        assert [token.token_id for token in tokens] == _alone(request)
        assert reasons == {0: "length"}
    assert running.counters.finished == 6
    assert running.counters.generated_tokens == sum(r.max_new_tokens for r in requests)


def test_samples_share_a_prompt(engine):
    request = Request(random_ids(100), 12, WILD, seed=5, num_samples=3)
    running = engine(prefill_tokens=30)
    tokens, reasons = _collect(_submit(running, request)[1], 3)
    texts = [[token.token_id for token in sample] for sample in tokens]
    assert texts[0] == _alone(request)
    assert len({tuple(text) for text in texts}) == 3
    assert reasons == dict.fromkeys(range(3), "length")
    assert running.counters.prompt_tokens == 100


def test_log_probabilities_are_the_models(engine):
    request = Request(random_ids(20), 6, WILD, num_logprobs=3)
    (tokens,), _ = _collect(_submit(engine(), request)[1])
    ids = [token.token_id for token in tokens]
    logs = whole_logits(MODEL, request.prompt + ids).log_softmax(-1)[19:]
    for token, row in zip(tokens, logs, strict=False):
        assert token.logprob == pytest.approx(float(row[token.token_id]), abs=1e-5)
        values, likeliest = row.topk(3)
        assert [i for i, _ in token.top] == likeliest.tolist()
        assert [v for _, v in token.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_a_conversation_is_not_read_again(engine):
    running = engine()
    prompt = random_ids(60)
    (first,), _ = _collect(_submit(running, Request(prompt, 10, WILD))[1])
    longer = prompt + [token.token_id for token in first] + random_ids(20, 9)
    request = Request(longer, 10, WILD)
    (tokens,), _ = _collect(_submit(running, request)[1])
    assert [token.token_id for token in tokens] == _alone(request)
    assert running.counters.reused_tokens == 69  # the last token drawn had not been read yet
    # Another continuation of the first prompt: the kept sequence is forked and shortened.
    request = Request(prompt + random_ids(9, 3), 10, WILD)
    (tokens,), _ = _collect(_submit(running, request)[1])
    assert [token.token_id for token in tokens] == _alone(request)
    assert running.counters.reused_tokens == 69 + 60


def test_kept_sequences_stay_within_their_budget(engine):
    running = engine(prefix_bytes=150_000)
    for seed in range(6):
        _collect(_submit(running, Request(random_ids(200, seed), 2, WILD))[1])
    assert 0 < running._prefixes.num_bytes <= 150_000
    running = engine(prefix_bytes=0)
    _collect(_submit(running, Request(random_ids(200), 2, WILD))[1])
    assert running._prefixes.num_bytes == 0


def test_a_full_queue_refuses(engine):
    running = engine(num_slots=1, queue_length=2)
    long = Request([1], 900, WILD)
    tickets = [_submit(running, long)]
    tickets[0][1].get(timeout=10)  # it is running, so it waits no more
    tickets += [_submit(running, long) for _ in range(2)]
    with pytest.raises(BusyError):
        _submit(running, long)
    tickets[1][0].cancel()  # makes room at once
    tickets.append(_submit(running, Request([2], 3, WILD)))
    for ticket, _ in tickets[:3]:
        ticket.cancel()
    (tokens,), _ = _collect(tickets[3][1])
    assert len(tokens) == 3
    assert running.counters.refused == 1


def test_what_is_given_up_stops_within_a_token(engine):
    running = engine()
    ticket, events = _submit(running, Request([1], 900, WILD))
    for _ in range(3):
        events.get(timeout=10)
    ticket.cancel()
    made = running.counters.generated_tokens
    _collect(_submit(running, Request([2], 2, WILD))[1])
    assert running.counters.generated_tokens <= made + 1 + 2
    assert running.counters.running == 0 or running._running == []
    assert running.counters.cancelled == 1


def test_one_sample_can_be_ended(engine):
    running = engine()
    ticket, events = _submit(running, Request([1], 40, WILD, num_samples=2))
    seen = {0: 0, 1: 0}
    while True:
        event = events.get(timeout=10)
        if isinstance(event, Finished):
            break
        seen[event.sample] += 1
        if event.sample == 0:
            ticket.end(0)
    assert event == Finished(1, "length")
    assert seen[1] == 40
    assert seen[0] <= 3


def test_a_request_that_fails_harms_no_other(engine):
    model = make_model(LAYERS)
    # Token 60 leads out of the streams' range, and is never drawn.
    model.reformer.embedding.tokens.weight.data[60] = 1e30
    model.head.bias.data[60] = -1e9
    running = engine(model)
    good = Request(random_ids(30, 1, vocab_size=6), 20, Sampling(top_k=1), seed=1)
    good_events = _submit(running, good)[1]
    bad_events = _submit(running, Request([60, 1], 5, WILD))[1]
    _, failed = _collect(bad_events)
    assert isinstance(failed, Failed)
    (tokens,), _ = _collect(good_events)
    assert [token.token_id for token in tokens] == _alone(good, model)


def test_draining_finishes_what_was_taken(engine):
    running = engine(num_slots=1)
    waiting = [_submit(running, Request([seed], 6, WILD))[1] for seed in range(4)]
    running.drain()
    with pytest.raises(ClosingError):
        _submit(running, Request([1], 1, WILD))
    for events in waiting:
        (tokens,), _ = _collect(events)
        assert len(tokens) == 6


def test_closing_fails_what_is_unfinished(engine):
    running = engine(num_slots=1)
    waiting = [_submit(running, Request([1], 1000, WILD))[1] for _ in range(2)]
    waiting[0].get(timeout=10)
    running.close(10)
    for events in waiting:
        _, failed = _collect(events)
        assert isinstance(failed, Failed)


def test_many_threads_may_submit(engine):
    running = engine(num_slots=3)
    answers = {}

    def ask(seed):
        request = Request(random_ids(10 + seed, seed), 5, WILD, seed=seed)
        (tokens,), _ = _collect(_submit(running, request)[1])
        answers[seed] = [token.token_id for token in tokens] == _alone(request)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == dict.fromkeys(range(8), True)


def test_the_engine_leaves_torchs_generator_alone(engine):
    before = torch.get_rng_state()
    (tokens,), _ = _collect(_submit(engine(), Request([1], 4, WILD))[1])
    assert isinstance(tokens[0], Token)
    assert torch.equal(before, torch.get_rng_state())
