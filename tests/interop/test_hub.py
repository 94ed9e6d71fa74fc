"""Checkpoints named by their hub id, fetched by huggingface_hub from a server that speaks as the
hub does.
"""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest
import torch

from reformer import ReformerForCausalLM
from reformer.interop.huggingface import load
from tests.interop.their_models import their_model

COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """The files of a folder as the repository owner/name."""

    folder = None

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *_):
        pass

    def _answer(self, body):
        path = urlsplit(self.path).path.removeprefix("/api/models").removeprefix("/owner/name/")
        kind, _, rest = path.partition("/")
        if kind == "resolve":
            self._send(200, (self.folder / rest.removeprefix(f"{COMMIT}/")).read_bytes(), body)
        else:
            files = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": COMMIT}
                for path in self.folder.iterdir()
            ]
            siblings = [{"rfilename": file["path"]} for file in files]
            about = {"id": "owner/name", "sha": COMMIT, "siblings": siblings}
            answer = {"revision": about, "tree": files}[kind]
            self._send(200, json.dumps(answer).encode(), body)

    def _send(self, status, content, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def convert(tmp_path):
    """``reformer convert`` in a process whose hub is this server."""
    (tmp_path / "repository").mkdir()
    handler = type("OfThisTest", (Hub,), {"folder": tmp_path / "repository"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
    }
    environment.pop("HF_HUB_OFFLINE", None)

    def run(*words):
        command = [sys.executable, "-m", "reformer", "convert", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    yield run
    server.shutdown()
    server.server_close()


def test_a_hub_id_is_fetched_and_converted(convert, tmp_path):
    theirs = their_model()
    theirs.save_pretrained(tmp_path / "repository")
    (tmp_path / "repository" / "pytorch_model.bin").write_bytes(b"not asked for")
    answer = convert("owner/name", tmp_path / "ours")
    assert answer.returncode == 0, answer.stderr
    ids = torch.arange(20)[None]
    ours = ReformerForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(ours(ids).logits, load(theirs)(ids).logits)
    assert not list((tmp_path / "cache").rglob("pytorch_model.bin"))


def test_weights_of_another_kind_are_fetched_when_they_are_asked_for(convert, tmp_path):
    theirs = their_model()
    theirs.save_pretrained(tmp_path / "repository")
    (tmp_path / "repository" / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "repository" / "pytorch_model.bin")
    refused = convert("owner/name", tmp_path / "ours")
    assert refused.returncode == 2
    assert "--weights-file pytorch_model.bin" in refused.stderr.splitlines()[-1]
    answer = convert("owner/name", tmp_path / "ours", "--weights-file", "pytorch_model.bin")
    assert answer.returncode == 0, answer.stderr
