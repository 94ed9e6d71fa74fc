"""The command ``reformer``: argument parsing and printing only.

Each command is a module with ``run(arguments) -> exit code``, imported once its arguments
(arguments.py) are understood: help and mistakes cost no time.
"""

import contextlib
import importlib
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from reformer.cli.signals import signals_end_it

_COMMANDS = {
    "train": "train a model on files, or on Moby-Dick when none are named",
    "evaluate": "bits per byte and perplexity of whole files",
    "generate": "write text that continues a prompt",
    "draw": "pictures by a model that was trained on pictures",
    "extend": "a signal goes on: sound, a genome, a series of numbers",
    "chat": "talk with a model in the terminal",
    "ask": "answer a question from a document",
    "classify": "label texts",
    "translate": "write a text from each line: translations, summaries",
    "serve": "a model behind HTTP, with OpenAI's routes and a page",
    "plan": "memory that a training run would need, term by term",
    "presets": "list the named models",
    "tokenizer train": "make a tokenizer.json from files",
    "convert": "models of other libraries to ours, and back",
    "inspect": "what LSH finds of a model's attention on a text",
    "bench": "time attention beside its peers",
    "reproduce": "measure results of the paper again, pass or fail",
    "doctor": "show what is in use here, and why",
}

_USER_ERRORS = {
    "reformer.checks.ConfigError",
    "reformer.data.files.InputError",
    "reformer.training.run.RunError",
    "reformer.models.store.ModelError",
    "reformer.models.reformer.VocabularyError",
    "reformer.interop.errors.ConversionError",
    "reformer.generation.sampling.SamplingError",
    "reformer.generation.decode.PromptError",
    "reformer.generation.chat.ChatError",
    "reformer.serving.server.ServeError",
}
"""Errors in what the user asked for: exit code 2. Named, so that nothing is imported for them."""

_RUN_ERRORS = {
    "reformer.training.checkpoint.CheckpointError",
    "reformer.training.loop.TrainingError",
    "reformer.training.distributed.ProcessError",
    "reformer.nn.streams.StreamRangeError",
}
"""Work that failed on the way: exit code 1."""


_SECONDS_TO_END = 60.0
"""How long one of several processes waits for torchrun to end it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0, 1 failed, 2 wrong input, 128 + n stopped by signal n."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Torch asks the system for large pages; at a million tokens small ones cost a third more time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        with signals_end_it():
            return _dispatch(words)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader went away, as in `reformer generate … | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        # Unreadable input has become an InputError long before: this is a failing disk.
        print(f"reformer: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"reformer: {error}", file=sys.stderr)
        return code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from reformer import __version__

        print(f"reformer {__version__}")
        return 0
    for command in _COMMANDS:
        parts = command.split()
        if words[: len(parts)] == parts:
            arguments = _understand(command, words[len(parts) :])
            return int(importlib.import_module(f"reformer.cli.{parts[0]}").run(arguments))
    names = ", ".join(_COMMANDS)
    print(f"reformer: there is no command {words[0]!r}; there are {names}", file=sys.stderr)
    return 2


def _understand(command: str, words: list[str]) -> Any:
    """The command's arguments. Of torchrun's processes, which all have the same words, the first
    says what is wrong with them; torchrun then ends the others, which wait for that.
    """
    from reformer.cli.understand import parse_command

    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0":
        return parse_command(command, words)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return parse_command(command, words)
    except Exception:
        time.sleep(_SECONDS_TO_END)
        raise
    except SystemExit as stop:
        if stop.code != 0:
            time.sleep(_SECONDS_TO_END)
        raise


def _overview() -> str:
    lines = [f"  {name:<16} {summary}" for name, summary in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: reformer COMMAND [--help] …",
            "",
            "Train and use Reformer language models on long sequences.",
            "",
            *lines,
            "",
            "reformer COMMAND --help lists a command's options; --version prints the version.",
        ]
    )


def _exit_code(error: Exception) -> int | None:
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
    if names & _USER_ERRORS:
        return 2
    return 1 if names & _RUN_ERRORS else None
