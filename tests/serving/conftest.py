"""Real server processes on real sockets."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from reformer import LSH, Local, ReformerConfig, ReformerForCausalLM

KEY = "a-key-for-the-tests"


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def client(self, **settings):
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **settings)

    def metric(self, name, **headers):
        with self.client() as client:
            text = client.get("/metrics", headers=headers).text
        return float(re.search(rf"^reformer_{name} (\S+)$", text, re.MULTILINE).group(1))

    def wait_until(self, name, wanted, seconds=20, **headers):
        deadline = time.monotonic() + seconds
        while (value := self.metric(name, **headers)) != wanted:
            assert time.monotonic() < deadline, f"{name} stays {value}, not {wanted}"
            time.sleep(0.05)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start(folder, *arguments, key=None):
    """A server on a free port."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("REFORMER_API_KEY", None)
    if key is not None:
        environment["REFORMER_API_KEY"] = key
    log = folder.parent / f"serve-{time.monotonic_ns()}.log"
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "reformer", "serve", str(folder), "--port", "0", *arguments],
            stderr=errors, env=environment,
        )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (found := re.search(r":(\d+)\n", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return Server(process, int(found.group(1)), log)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    config = ReformerConfig(
        hidden_size=16, feed_forward_size=16, num_heads=1, head_size=8, max_length=4096,
        layers=(Local(16, rotary_base=10000.0), LSH(num_hashes=2, window_length=8)),
        init_scale=0.5,
    )  # fmt: skip
    ReformerForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def server(model_folder):
    """Without a key, four slots."""
    running = start(model_folder, "--slots", "4")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def guarded(model_folder):
    """With a key, one slot, a queue of two, and rounding that no neighbour changes."""
    arguments = ("--slots", "1", "--queue-length", "2", "--batch-invariant")
    running = start(model_folder, *arguments, key=KEY)
    yield running
    running.stop()
