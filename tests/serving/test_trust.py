"""A server that can be trusted: bad, large, slow, many and vanishing clients; keys; the end."""

import contextlib
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from reformer import cli

from .conftest import KEY, start

LONG = {"prompt": "x", "max_tokens": 3000, "seed": 1}
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]

NUMBERS = {
    "max_tokens": [0, -1, 4096, 2**31, 2**63, 10**400, 1e308, 1.5, True, "1", [1]],
    "n": [0, -1, 5, 17, 2**31, 1.5],
    "temperature": [-0.1, 101, 1e308, "1"],
    "top_p": [0, -1, 1.01],
    "top_k": [0, -1, 2**31, 0.5],
    "min_p": [-1, 2],
    "repetition_penalty": [0, -1, 1e308],
    "seed": [2**63, -(2**63) - 1, 0.5, "1"],
    "logprobs": [-1, 21, 2**31, "x"],
    "presence_penalty": [0.1, 2],
    "stop": ["", [""], [1], ["x"] * 17, 3],
    "prompt": [3, [], [[]], [-1], [256], [2**31], [1.5], ["a", "b"], "x" * 5000, {"a": 1}],
    "model": ["other", 3],
    "stream": ["yes", 1],
    "echo": [True],
}
MALFORMED = [
    b"", b"{", b"[]", b"null", b"3", b"\xff", b'{"prompt": "\xff"}', b'{"temperature": NaN}',
    b'{"temperature": Infinity}', b"[" * 100_000, b'{"a":' * 50_000, b'{"max_tokens": 1e999}',
    b'{"max_tokens": ' + b"9" * 5000 + b"}",
]  # fmt: skip
BAD_CHATS = [
    {}, {"messages": []}, {"messages": "hi"}, {"messages": [3]}, {"messages": [{"role": "user"}]},
    {"messages": [{"role": "robot", "content": "hi"}]}, {"messages": HI, "top_logprobs": 3},
    {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    {"messages": HI, "tools": [{}]}, {"messages": HI, "max_completion_tokens": 0},
]  # fmt: skip


def _bodies():
    for name, values in NUMBERS.items():
        for value in values:
            yield COMPLETIONS, json.dumps({"prompt": "x", name: value}).encode()
    yield from ((COMPLETIONS, body) for body in MALFORMED)
    yield from ((CHATS, json.dumps(body).encode()) for body in BAD_CHATS)


def test_malformed_requests_are_refused_before_any_work(server):
    before = server.metric("requests_total")
    headers = {"content-type": "application/json"}
    with server.client(headers=headers) as client:
        for path, body in _bodies():
            answer = client.post(path, content=body)
            assert answer.status_code in (400, 404), (body[:80], answer.text)
            assert answer.json()["error"]["message"], body[:80]
        assert (
            client.post(
                COMPLETIONS, content=b"{}", headers={"content-type": "text/plain"}
            ).status_code
            == 415
        )
        assert client.get(COMPLETIONS).status_code == 405
        assert client.get("/v1/nothing").status_code == 404
        assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 421
    assert server.metric("requests_total") == before


def _raw(server, data, seconds=15):
    """What a server answers to bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


POST = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: "
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\nx: "


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (POST + b"1073741824\r\n\r\n", b" 413 "),
        (POST + b"9" * 30 + b"\r\n\r\n", b" 4"),
        (GET + b"y" * 100_000 + b"\r\n\r\n", b" 431 "),
        (GET + b"y" * 100_000, b" 431 "),
        (b"\x16\x03\x01 this is no HTTP\r\n\r\n", b" 400 "),
    ],
    ids=["1 GB", "30 digits", "long header", "endless header", "no HTTP"],
)  # fmt: skip
def test_large_and_broken_requests_are_refused_early(server, request_bytes, status):
    started = time.monotonic()
    answer = _raw(server, request_bytes)
    assert answer.startswith(b"HTTP/1.1" + status), answer[:200]
    assert time.monotonic() - started < 14


def test_a_body_that_says_nothing_of_its_length_is_cut_off(server):
    def endless():
        for _ in range(40):
            yield b"x" * (1 << 20)

    with server.client() as client:
        try:
            answer = client.post(
                COMPLETIONS, content=endless(), headers={"content-type": "application/json"}
            )
            assert answer.status_code == 413
        except httpx.WriteError:
            pass  # the server had answered and closed before everything was sent
        assert client.get("/healthz").text == "ok\n"


def test_slow_connections_are_closed_and_harm_nobody(server):
    address = ("127.0.0.1", server.port)
    slow = [socket.create_connection(address) for _ in range(60)]
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n"
    for number, connection in enumerate(slow):
        # Nothing at all, half a head, or half a body.
        connection.sendall([b"", head, head + b"\r\n{"][number % 3])
    started = time.monotonic()
    with server.client() as client:
        assert client.post(COMPLETIONS, json={"prompt": "x", "max_tokens": 2}).status_code == 200
    for connection in slow:
        connection.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
        connection.close()
    assert time.monotonic() - started < 12


def test_leaving_stops_the_computing(server):
    for stream in (True, False):
        cancelled = server.metric("requests_cancelled_total")
        with server.client() as client:
            if stream:
                with client.stream("POST", COMPLETIONS, json={**LONG, "stream": True}) as answer:
                    next(answer.iter_lines())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(COMPLETIONS, json=LONG, timeout=0.5)
        server.wait_until("requests_cancelled_total", cancelled + 1)
        server.wait_until("sequences_running", 0)


def _auth(key=KEY):
    return {"authorization": f"Bearer {key}"}


def test_every_route_needs_the_key(guarded):
    with guarded.client() as client:
        for path in (
            "/v1/models",
            "/v1/models/small",
            "/metrics",
            COMPLETIONS,
            CHATS,
            "/docs",
            "/x",
        ):
            for headers in ({}, _auth("wrong-key-wrong-key"), {"authorization": KEY}):
                for method in ("GET", "POST"):
                    answer = client.request(method, path, headers=headers, content=b"{")
                    assert answer.status_code == 401, path
        assert client.get("/v1/models", headers=_auth()).status_code == 200
        assert client.get("/healthz").text == "ok\n"
        assert client.get("/readyz").text == "ok\n"
    assert KEY not in guarded.log.read_text()


def test_overload_is_answered_at_once(guarded):
    body = {"prompt": "x", "max_tokens": 60, "seed": 1}

    def ask(_):
        with guarded.client(headers=_auth()) as client:
            answer = client.post(COMPLETIONS, json=body)
            return answer.status_code, answer.headers.get("retry-after")

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    assert {code for code, _ in answers} == {200, 429}
    assert all((code == 429) == (retry == "1") for code, retry in answers)


def test_a_deadline_ends_a_request(model_folder):
    running = start(model_folder, "--request-seconds", "1")
    with running.client() as client:
        assert client.post(COMPLETIONS, json={**LONG, "max_tokens": 4000}).status_code == 504
        with client.stream("POST", COMPLETIONS, json={**LONG, "stream": True}) as answer:
            lines = [line for line in answer.iter_lines() if line]
    assert "the time for this request is over" in lines[-2]
    running.wait_until("sequences_running", 0)
    assert running.stop() == -signal.SIGTERM or running.process.returncode == 143


def test_what_was_accepted_is_finished_before_the_end(model_folder):
    running = start(model_folder, "--slots", "2")
    body = {"prompt": "x", "max_tokens": 40, "seed": 1}

    def ask(_):
        with running.client() as client:
            answer = client.post(COMPLETIONS, json=body)
            return answer.status_code, answer.json()["usage"]["completion_tokens"]

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, n) for n in range(6)]
        running.wait_until("requests_total", 6)
        running.process.send_signal(signal.SIGTERM)
        assert [future.result() for future in asked] == [(200, 40)] * 6
    assert running.process.wait(30) in (143, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "needs an API key"),
        (["--port", "65536"], "port is 65536"),
        (["--slots", "0"], "slots is 0"),
        (["--request-seconds", "-1"], "request_seconds is -1"),
        (["--api-key-file", "/nonexistent"], "cannot read the API key"),
    ],
)
def test_servers_that_cannot_be_started(model_folder, arguments, reason, capsys, monkeypatch):
    monkeypatch.delenv("REFORMER_API_KEY", raising=False)
    assert cli.main(["serve", str(model_folder), *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_a_taken_port_is_named(model_folder, server, capsys, monkeypatch):
    monkeypatch.delenv("REFORMER_API_KEY", raising=False)
    assert cli.main(["serve", str(model_folder), "--port", str(server.port)]) == 2
    assert f"127.0.0.1:{server.port}" in capsys.readouterr().err
