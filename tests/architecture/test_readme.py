"""What the documents say is so: examples run, options exist, links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from reformer import ReformerConfig, ReformerForCausalLM

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LABELS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def _blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


# Its examples talk to a server; tests/serving talks to a real one.
SERVED = "docs/serving.md"


def _has_examples(label: str) -> bool:
    return label != SERVED and bool(_blocks(ROOT / label, "python"))


@pytest.mark.parametrize("label", [label for label in LABELS if _has_examples(label)])
def test_a_page_of_python_examples_runs_from_top_to_bottom(label: str, tmp_path: Path) -> None:
    config = ReformerConfig(hidden_size=16, num_heads=1, head_size=16, max_length=128)
    ReformerForCausalLM(config).save_pretrained(tmp_path / "runs" / "novel-1")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(_blocks(ROOT / label, "python"))],
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
                    name = " ".join(words[1 : 3 if words[1] == "tokenizer" else 2])
                    options = sorted(w.split("=")[0] for w in words if w.startswith("--"))
                    found.add((name, *options))
    return sorted(found)


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_a_command_in_the_documents_has_these_options(words: tuple[str, ...]) -> None:
    command, *options = words
    done = subprocess.run(
        [sys.executable, "-m", "reformer", *command.split(), "--help"],
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


def _example(tmp_path: Path, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_more_rounds_come_closer_to_exact_attention(tmp_path: Path) -> None:
    output = _example(tmp_path, "attention_quality.py")
    errors = [float(line.split()[-1]) for line in output.splitlines()]
    assert len(errors) == 4
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 2


def test_a_model_learns_in_a_plain_torch_loop(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 50)
    output = _example(tmp_path, "language_model.py", str(text), "11")
    bits = [float(line.split()[-4]) for line in output.splitlines()]
    assert len(bits) == 2
    assert bits[1] < bits[0] - 1
