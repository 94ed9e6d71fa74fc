"""The script behind the README's two commands, as a person without the right Python meets it."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = "/usr/bin", "/bin"


def _run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "run"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_an_old_python_is_named_in_one_sentence(tmp_path: Path) -> None:
    old = _script(tmp_path / "python3", "exit 1")  # what any Python answers that is too old
    venv = tmp_path / "venv"
    done = _run({"PATH": os.pathsep.join(TOOLS), "PYTHON": str(old), "VENV": str(venv)}, "train")
    assert done.returncode == 2
    assert "no Python 3.11 or later was found" in done.stderr
    assert "Traceback" not in done.stderr
    assert not venv.exists()


def test_an_installation_that_is_up_to_date_is_used_as_it_is(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    _script(venv / "bin" / "reformer", 'echo "$@"')
    _script(venv / "bin" / "python", "exit 0")  # installing succeeds, whatever it is asked
    environment = {"PATH": os.pathsep.join(TOOLS), "VENV": str(venv)}
    first = _run(environment, "train", "a file.txt", "--steps", "3")
    assert first.stdout == "train a file.txt --steps 3\n"
    assert "Installing" in first.stderr
    second = _run(environment, "evaluate")
    assert (second.stdout, second.stderr) == ("evaluate\n", "")
    tests = _run(environment, "test")
    assert "Installing" in tests.stderr, "the tests need more than the commands do"


def test_a_failed_installation_is_not_taken_for_done(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    _script(venv / "bin" / "python", 'case "$*" in *" pip install "*) exit 1;; esac')
    environment = {"PATH": os.pathsep.join(TOOLS), "VENV": str(venv)}
    for _ in range(2):
        done = _run(environment, "train")
        assert done.returncode == 2
        assert "could not be installed" in done.stderr


def test_of_two_at_once_the_second_waits_for_the_installation(tmp_path: Path) -> None:
    venv, at_work, go = tmp_path / "venv", tmp_path / "at work", tmp_path / "go"
    (venv / "bin").mkdir(parents=True)
    _script(venv / "bin" / "reformer", "true")
    # An installer that is at work until it is told to go on, and fails where another is.
    mark = f'mkdir "{at_work}" || exit 1; while ! [ -e "{go}" ]; do sleep 0.05; done'
    pip = f'{mark}; rmdir "{at_work}"'
    _script(venv / "bin" / "python", f'case "$*" in *" pip install "*) {pip};; esac')
    environment = {"PATH": os.pathsep.join(TOOLS), "VENV": str(venv)}

    def start() -> subprocess.Popen[str]:
        command = ["bash", str(ROOT / "run"), "train"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    first = start()
    assert first.stderr is not None
    assert "Installing into" in first.stderr.readline()
    second = start()
    assert second.stderr is not None
    assert "Waiting for another ./run" in second.stderr.readline()
    go.touch()
    assert "Installing" not in second.communicate()[1], "it finds all installed"
    first.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
