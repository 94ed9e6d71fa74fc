"""Each check in three sizes: with the fast tests, under `-m slow`, and `-m full`.

The full counts are run by `python benchmarks/trust.py`, which keeps their results.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

_STARTED = time.monotonic()


def tiers(small: int, middle: int, full: int) -> Any:
    """Gives a test its ``count`` in each tier."""
    return pytest.mark.parametrize(
        "count",
        [
            pytest.param(small, id="small"),
            pytest.param(middle, id="middle", marks=pytest.mark.slow),
            pytest.param(full, id="full", marks=pytest.mark.full),
        ],
    )


def record(check: str, what: str, count: int, **facts: Any) -> None:
    """Keep a check's result in the file that TRUST_RESULTS names, if it does."""
    name = os.environ.get("TRUST_RESULTS")
    if name is None:
        return
    path = Path(name)
    results = json.loads(path.read_text()) if path.exists() else {}
    results[f"{check}: {what}"] = {"count": count, **facts}
    path.write_text(json.dumps(results, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
