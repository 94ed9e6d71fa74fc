"""A signal ends a command, with what it was making tidied up, even in the middle of an import."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from reformer.cli.signals import signals_end_it
signal.signal(signal.SIGINT, {handler})
sys.path.insert(0, {folder!r})
with signals_end_it():
    try:
        {act}
    finally:
        print("tidied up", flush=True)
"""
GREEDY = """
import os, time
try:
    os.kill(os.getpid(), {number})
    time.sleep(60)
except BaseException:
    pass
"""


def run(
    folder: Path, act: str, handler: str = "signal.default_int_handler"
) -> subprocess.CompletedProcess[str]:
    """handler: what SIGINT does before; where tests run in the background, it is ignored."""
    program = PROGRAM.format(folder=str(folder), act=act, handler=handler)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_package_that_is_being_imported_can_swallow_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY.format(number=int(number)))
    ended = run(tmp_path, "import greedy")
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_elsewhere_what_was_made_is_tidied_up(tmp_path: Path, number: signal.Signals) -> None:
    ended = run(tmp_path, f"os.kill(os.getpid(), {int(number)})")
    assert ended.returncode != 0 and ended.stdout == "tidied up\n"


def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under nohup, or in the background of a script."""
    ended = run(tmp_path, f"os.kill(os.getpid(), {int(signal.SIGINT)})", "signal.SIG_IGN")
    assert (ended.returncode, ended.stdout) == (0, "tidied up\n")
