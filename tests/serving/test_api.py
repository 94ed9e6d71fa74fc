"""The routes, by OpenAI's own client: what comes back is what the model says."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from reformer import ReformerForCausalLM
from reformer.data.chat_template import ChatTemplate, Message, chat_encoder
from reformer.data.tokenizer import ByteTokenizer
from reformer.generation.decode import generate
from reformer.generation.sampling import Sampling
from reformer.generation.text import WrittenText, encode_text


@pytest.fixture(scope="module")
def model(model_folder):
    return ReformerForCausalLM.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def _text(model, ids, tokens, seed, stop_ids=(), **sampling):
    written = WrittenText(ByteTokenizer())
    for token_id in generate(
        model, ids, max_new_tokens=tokens, sampling=Sampling(**sampling), seed=seed,
        stop_ids=stop_ids,
    ):  # fmt: skip
        if token_id not in stop_ids:
            written.feed(token_id)
    written.finish()
    return written.text


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_completion_is_what_the_model_writes(client, model):
    prompt = "Call me Ishmael. Größe"
    done = client.completions.create(
        model="small", prompt=prompt, max_tokens=20, seed=3, temperature=0.9, top_p=0.9
    )
    ids = encode_text(prompt, ByteTokenizer())
    assert done.choices[0].text == _text(model, ids, 20, 3, temperature=0.9, top_p=0.9)
    assert done.choices[0].finish_reason == "length"
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(ids), 20)
    by_ids = client.completions.create(
        model="small", prompt=ids, max_tokens=20, seed=3, temperature=0.9, top_p=0.9
    )
    assert by_ids.choices[0].text == done.choices[0].text


def test_a_stream_is_the_same_text(client):
    asked = {"model": "small", "prompt": "Whale", "max_tokens": 30, "seed": 1}
    whole = client.completions.create(**asked)
    chunks = list(
        client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(c.choices[0].text for c in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 30


def test_a_chat_is_written_by_its_template(client, model):
    encoder = chat_encoder(ChatTemplate(), ByteTokenizer())
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\x04"}]
    ids = encoder.conversation([Message("system", "Be brief."), Message("user", "Hi")])
    asked = {"model": "small", "messages": messages, "max_tokens": 40, "seed": 5}
    done = client.chat.completions.create(**asked)
    stop_ids = set(encoder.markers.values())
    wanted = _text(model, ids, 40, 5, stop_ids=stop_ids)
    assert done.choices[0].message.content == wanted
    assert done.choices[0].message.role == "assistant"
    chunks = client.chat.completions.create(**asked, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == wanted


def test_samples_stop_strings_and_log_probabilities(client):
    asked = {"model": "small", "prompt": "x", "max_tokens": 40, "seed": 2}
    whole = client.completions.create(**asked, n=3, logprobs=2)
    texts = [choice.text for choice in whole.choices]
    assert len(set(texts)) == 3
    logprobs = whole.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 40
    assert all(value <= 0 for value in logprobs.token_logprobs)
    assert all(len(top) <= 2 for top in logprobs.top_logprobs)
    stop = texts[0][10:12]
    cut = client.completions.create(**asked, stop=[stop])
    assert cut.choices[0].text == texts[0][: texts[0].index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    chat = client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "x"}], max_tokens=3, seed=1,
        logprobs=True, top_logprobs=2,
    )  # fmt: skip
    for entry in chat.choices[0].logprobs.content:
        assert len(entry.top_logprobs) == 2
        assert entry.logprob <= entry.top_logprobs[0].logprob


def test_a_conversation_that_goes_on_is_not_read_again(client, server):
    messages = [{"role": "user", "content": "How large is a whale? " * 4}]
    first = client.chat.completions.create(model="small", messages=messages, max_tokens=9, seed=1)
    before = server.metric("prompt_tokens_reused_total")
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And a shark?"},
    ]
    client.chat.completions.create(model="small", messages=messages, max_tokens=4, seed=1)
    assert server.metric("prompt_tokens_reused_total") - before >= first.usage.prompt_tokens


def test_texts_do_not_depend_on_what_runs_beside_them(guarded, server, model):
    asked = [
        {"prompt": f"{n} " * (1 + 5 * n), "max_tokens": 10 + n, "seed": n, "temperature": 1}
        for n in range(8)
    ]
    wanted = [
        _text(model, encode_text(a["prompt"], ByteTokenizer()), a["max_tokens"], a["seed"])
        for a in asked
    ]
    with server.client() as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda a: client.post("/v1/completions", json=a).json(), asked))
    assert [answer["choices"][0]["text"] for answer in answers] == wanted


def test_the_page_needs_nothing_from_outside(server):
    with server.client() as client:
        page = client.get("/")
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        for path in ("/", "/page.css", "/page.js"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "//" not in answer.text.replace("// ", "")
        assert json.dumps("chat") in page.text
