"""What the documents say is so: examples run, options exist, links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LABELS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def _blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


PYTHON = [
    pytest.param(block, id=f"{label}-{number}")
    for path, label in zip(DOCUMENTS, LABELS, strict=True)
    for number, block in enumerate(_blocks(path, "python"))
]


@pytest.mark.parametrize("block", PYTHON)
def test_a_python_example_runs(block: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _commands() -> list[tuple[str, ...]]:
    """The distinct (command, option, …) of every `reformer` line in the documents."""
    found = set()
    for path in DOCUMENTS:
        for block in _blocks(path, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["reformer"]:
                    options = sorted(w.split("=")[0] for w in words[2:] if w.startswith("--"))
                    found.add((words[1], *options))
    return sorted(found)


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_a_command_in_the_documents_has_these_options(words: tuple[str, ...]) -> None:
    command, *options = words
    done = subprocess.run(
        [sys.executable, "-m", "reformer.cli", command, "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    known = set(re.findall(r"--[a-z0-9-]+", done.stdout))
    assert set(options) <= known


@pytest.mark.parametrize("path", DOCUMENTS, ids=LABELS)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#\s]+)", path.read_text())
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert missing == []
