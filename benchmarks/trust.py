"""The full counts of the trust checks, one test after another.

    python benchmarks/trust.py           every test that has not passed yet
    python benchmarks/trust.py kills     those whose names hold a word, again

Results go to benchmarks/results/trust.json after each test, with a table in trust.md beside it;
a run that is stopped goes on where it was. Each test starts real processes with tiny models.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "trust.json"
PYTEST = (sys.executable, "-m", "pytest", "-q", "-m", "full")

Results = dict[str, Any]


def find_tests() -> list[str]:
    """Every test with a full count, as pytest names it."""
    command = [*PYTEST, "--collect-only", "tests/trust"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "::" in line]


def run_test(test: str) -> tuple[int, float, Results]:
    """pytest's exit code (0 passed, 1 failed), the seconds it took, and what it has recorded."""
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "recorded.json"
        environment = os.environ | {"TRUST_RESULTS": str(recorded), "OMP_NUM_THREADS": "1"}
        started = time.monotonic()
        command = [*PYTEST, f"--basetemp={folder}/pytest", test]
        done = subprocess.run(command, cwd=ROOT, env=environment)
        seconds = time.monotonic() - started
        found = json.loads(recorded.read_text()) if recorded.exists() else {}
    return done.returncode, seconds, found


def table(results: Results, tests: list[str]) -> str:
    """The checks, their counts and what was found, for people; what failed, and what is left."""
    lines = [
        "Written by `python benchmarks/trust.py`. " + results["machine"] + ".",
        "",
        "| check | count | found |",
        "|---|---:|---|",
    ]
    for check, facts in sorted(results["checks"].items()):
        facts = dict(facts)
        count = facts.pop("count")
        found = ", ".join(f"{name.replace('_', ' ')}: {_words(v)}" for name, v in facts.items())
        lines.append(f"| {check} | {count:,} | {found} |")
    known = results["tests"]
    failed = [_name(test) for test in tests if test in known and not known[test]["passed"]]
    left = [_name(test) for test in tests if test not in known]
    lines += ["", f"Failed: {', '.join(failed)}." if failed else "No test failed."]
    if left:
        lines += ["", f"Not run yet: {', '.join(left)}."]
    return "\n".join(lines) + "\n"


def _name(test: str) -> str:
    return test.rpartition("::")[2].removesuffix("[full]").removeprefix("test_").replace("_", " ")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " to ".join(_words(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Run what is left, and write down each result as it comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*")
    words = parser.parse_args().words
    results: Results = {"machine": "", "checks": {}, "tests": {}}
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text())
    results["machine"] = (
        f"{os.cpu_count()} processors ({platform.machine()}), Python {platform.python_version()}"
    )
    tests = find_tests()
    for test in tests:
        passed = results["tests"].get(test, {"passed": False})["passed"]
        wanted = any(word in test for word in words) if words else not passed
        if not wanted:
            continue
        code, seconds, found = run_test(test)
        if code > 1:
            sys.exit(f"{test} was interrupted")
        results["checks"] |= found
        results["tests"][test] = {"passed": code == 0, "seconds": round(seconds)}
        RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
        RESULTS.with_suffix(".md").write_text(table(results, tests))
        print(f"{test}: {'passed' if code == 0 else 'FAILED'} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
