"""The checks of test_trust.py at greater counts, and memory watched meanwhile."""

import contextlib
import json
import random
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from .conftest import start
from .test_trust import BAD_CHATS, CHATS, COMPLETIONS, LONG, MALFORMED, NUMBERS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
MOST_GROWTH = 64 << 20
PATIENCE = 600
"""Seconds that no answer takes, however busy the machine."""


@pytest.fixture(scope="module")
def roomy(model_folder):
    """Eight slots, and rounding that no neighbour changes."""
    running = start(model_folder, "--slots", "8", "--queue-length", "200", "--batch-invariant")
    yield running
    running.stop()


@contextlib.contextmanager
def flat_memory(server):
    """What happens inside leaves the server's memory as it was, but for what caches may take."""
    before = _memory(server)
    yield
    assert _memory(server) - before < MOST_GROWTH


def _memory(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def test_thousands_of_malformed_bodies(server):
    """Every wrong value beside every right one, and bytes changed at random places."""
    rng = random.Random(0)
    before = server.metric("requests_total")
    refused = 0
    with flat_memory(server), server.client() as client:
        for _ in range(3000):
            name = rng.choice(list(NUMBERS))
            body = {"prompt": "x", "max_tokens": 1, "temperature": 0, "seed": 1, "top_p": 1.0}
            body[name] = rng.choice(NUMBERS[name])
            data = json.dumps(body).encode()
            path = COMPLETIONS
            if rng.random() < 0.3:
                data, path = rng.choice(MALFORMED), rng.choice([COMPLETIONS, CHATS])
            elif rng.random() < 0.3:
                data, path = json.dumps(rng.choice(BAD_CHATS)).encode(), CHATS
            elif rng.random() < 0.5:
                place = rng.randrange(len(data))
                data = data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
            answer = client.post(path, content=data, headers={"content-type": "application/json"})
            assert 400 <= answer.status_code < 500 or answer.status_code == 200, data[:200]
            refused += answer.status_code != 200
    assert refused > 2500
    assert server.metric("requests_total") - before == 3000 - refused


def test_a_gigabyte_is_neither_read_nor_held(server):
    chunk = b"x" * (1 << 20)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with flat_memory(server):
        for length in (
            b"transfer-encoding: chunked\r\n\r\n",
            b"content-length: 1073741824\r\n\r\n",
        ):
            sent = 0
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
                connection.sendall(head + length)
                with contextlib.suppress(ConnectionError):
                    while sent < 1 << 30:
                        connection.sendall(b"100000\r\n" + chunk + b"\r\n")
                        sent += len(chunk)
            assert sent < 64 << 20


def test_hundreds_of_slow_connections(server):
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(400)]
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n"
    for number, connection in enumerate(slow):
        connection.sendall([b"", head, head + b"\r\n{"][number % 3])
    started = time.monotonic()
    with server.client() as client:
        for _ in range(5):
            answer = client.post(COMPLETIONS, json={"prompt": "x", "max_tokens": 2})
            assert answer.status_code == 200
    for connection in slow:
        connection.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
        connection.close()
    assert time.monotonic() - started < 12


def test_a_hundred_clients_at_once(server):
    def ask(number):
        with server.client() as client:
            body = {"prompt": "x", "max_tokens": 30, "seed": number}
            answer = client.post(COMPLETIONS, json=body, timeout=PATIENCE)
            return answer.status_code, answer.headers.get("retry-after")

    with flat_memory(server), ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(ask, range(300)))
    assert {code for code, _ in answers} == {200, 429}
    assert all((code == 429) == (retry == "1") for code, retry in answers)


def test_many_clients_that_leave(server):
    cancelled = server.metric("requests_cancelled_total")

    def leave(number):
        with server.client() as client:
            if number % 2:
                with client.stream("POST", COMPLETIONS, json={**LONG, "stream": True}) as answer:
                    next(answer.iter_lines())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(COMPLETIONS, json=LONG, timeout=0.3)

    with flat_memory(server), ThreadPoolExecutor(4) as pool:
        list(pool.map(leave, range(60)))
        server.wait_until("requests_cancelled_total", cancelled + 60, PATIENCE)
        server.wait_until("sequences_running", 0, PATIENCE)


@pytest.mark.parametrize("milliseconds", [0, 50, 150, 400, 800])
def test_the_end_at_any_instant(model_folder, milliseconds):
    """Whoever was accepted gets everything; whoever was not is told so, or finds no server."""
    running = start(model_folder, "--slots", "4", "--queue-length", "64")
    body = {"prompt": "x", "max_tokens": 60, "seed": 1}

    def ask(_):
        try:
            with running.client() as client:
                answer = client.post(COMPLETIONS, json=body, timeout=PATIENCE)
        except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):
            return None
        if answer.status_code == 503:
            return 503
        assert answer.status_code == 200, answer.text
        return answer.json()["usage"]["completion_tokens"]

    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, n) for n in range(24)]
        while (accepted := running.metric("requests_total")) < 12:
            time.sleep(0.02)
        time.sleep(milliseconds / 1000)
        running.process.send_signal(signal.SIGTERM)
        answers = [future.result() for future in asked]
    assert answers.count(60) >= accepted
    assert set(answers) <= {60, 503, None}
    assert running.process.wait(30) in (143, -signal.SIGTERM)


def test_two_hundred_mixed_requests_are_what_each_is_alone(roomy):
    rng = random.Random(1)
    asked = [
        {
            "prompt": "".join(rng.choices("abc def\n", k=rng.randrange(1, 400))),
            "max_tokens": rng.randrange(1, 40), "seed": n, "temperature": rng.choice([0, 0.7, 1.5]),
            "top_p": rng.choice([0.5, 1.0]), "n": rng.choice([1, 1, 3]),
        }
        for n in range(200)
    ]  # fmt: skip

    def ask(body):
        with roomy.client() as client:
            answer = client.post(COMPLETIONS, json=body, timeout=PATIENCE)
            assert answer.status_code == 200, answer.text
            return [choice["text"] for choice in answer.json()["choices"]]

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, asked))
    assert together == list(map(ask, asked))
