"""What an import costs, and which way the arrows point."""

import subprocess
import sys
from pathlib import Path

import pytest

import reformer

ROOT = Path(__file__).parents[2]

# Run in a fresh process: prints the heavy libraries that the statement brought in.
HEAVY = "torch", "numpy", "transformers", "tokenizers", "matplotlib", "safetensors"
PROBE = """
import sys
try:
    {statement}
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
heavy = [name for name in {heavy} if name in sys.modules]
print("imported:", *heavy)
"""


def _imports(statement: str, *arguments: str) -> list[str]:
    code = PROBE.format(statement=statement, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.rsplit("imported:", 1)[1].split()


def test_importing_the_package_loads_no_library() -> None:
    assert _imports("import reformer") == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["generate", "--help"], ["presets"]]
)
def test_help_loads_no_library(arguments: list[str]) -> None:
    assert _imports("from reformer.cli import main; sys.exit(main())", *arguments) == []


def test_models_do_not_load_transformers() -> None:
    loaded = _imports("import reformer; reformer.ReformerForCausalLM")
    assert "torch" in loaded
    assert "transformers" not in loaded


def test_every_public_name_is_there() -> None:
    for name in reformer.__all__:
        assert getattr(reformer, name) is not None


def test_import_arrows_point_down() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
