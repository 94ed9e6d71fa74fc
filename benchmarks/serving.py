"""Requests per second and latency of the server, batched and one at a time.

    python benchmarks/serving.py RUN --out benchmarks/results/serving.json

Each client asks for 64 tokens after a prompt of its own, again and again; wall time.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

TOKENS = 64


def start(run, slots):
    """A server process and its address."""
    command = [sys.executable, "-m", "reformer", "serve", run, "--port", "0"]
    command += ["--slots", str(slots), "--queue-length", "64", "--prefix-megabytes", "0"]
    log = Path(tempfile.mkdtemp()) / "log"
    with open(log, "w") as errors:
        process = subprocess.Popen(command, stderr=errors)
    while not (found := re.search(r"(http://\S+)\n", log.read_text())):
        time.sleep(0.1)
    return process, found.group(1)


def load(url, clients, seconds):
    """What ``clients`` at a time get from the server in about ``seconds``."""
    end = time.monotonic() + seconds

    def ask(client):
        times = []
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as http:
            while time.monotonic() < end:
                body = {"prompt": f"Client {client} says ", "max_tokens": TOKENS, "seed": client}
                started = time.monotonic()
                http.post("/v1/completions", json=body).raise_for_status()
                times.append(time.monotonic() - started)
        return times

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        times = sorted(t for each in pool.map(ask, range(clients)) for t in each)
    elapsed = time.monotonic() - started
    return {
        "clients": clients,
        "requests_per_second": len(times) / elapsed,
        "tokens_per_second": TOKENS * len(times) / elapsed,
        "median_seconds": statistics.median(times),
        "p95_seconds": times[int(0.95 * (len(times) - 1))],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    results = {}
    for name, slots in (("batched", 16), ("one at a time", 1)):
        process, url = start(arguments.run, slots)
        load(url, 2, 1)
        results[name] = [load(url, clients, arguments.seconds) for clients in (1, 8, 32)]
        process.terminate()
        process.wait()
        print(name, json.dumps(results[name], indent=1), flush=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
