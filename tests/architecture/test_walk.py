"""From the command to the formula: the walk that ARCHITECTURE.md describes really happens."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import reformer.nn.attention
from reformer import cli

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "reformer"


def _documented_walk() -> list[tuple[str, str]]:
    """The hops of ARCHITECTURE.md's numbered list, as (file, qualified name)."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.split("## The walk", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\d+\. `(\S+)`, `(\S+)`", section, re.MULTILINE)


def _stack() -> list[tuple[str, str]]:
    """The package's own frames from the outermost inwards, as (file, qualified name)."""
    home = Path(reformer.__file__).parent
    hops, frame = [], sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(home):
            hops.append((path.relative_to(home).as_posix(), frame.f_code.co_qualname))
        frame = frame.f_back
    return hops[::-1]


def _is_subsequence(short: list[Any], long: list[Any]) -> bool:
    rest = iter(long)
    return all(item in rest for item in short)


def test_training_walks_from_the_command_to_the_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formula = reformer.nn.attention.lsh_attention
    stacks = []

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        stacks.append(_stack())
        return formula(*args, **kwargs)

    monkeypatch.setattr(reformer.nn.attention, "lsh_attention", watched)
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 100)
    arguments = ["train", str(text), "--preset", "tiny", "--steps", "1"]
    assert cli.main([*arguments, "--out", str(tmp_path / "run")]) in (0, None)

    *hops, (file, name) = _documented_walk()
    assert (file, name) == (
        Path(formula.__code__.co_filename).relative_to(Path(reformer.__file__).parent).as_posix(),
        formula.__qualname__,
    )
    assert len(hops) <= 7
    stack = stacks[0]
    assert _is_subsequence(hops, stack), stack
    # No detours: between the first hop and the formula, only the files of the walk.
    start = stack.index(hops[0])
    assert {file for file, _ in stack[start:]} == {file for file, _ in hops}
