"""Arguments from dataclasses, by tyro; its error boxes as one sentence."""

import contextlib
import io
import sys
from collections.abc import Sequence
from typing import Any

import tyro


def parse(cls: Any, command: str, words: Sequence[str], default: Any = None) -> Any:
    """An instance of ``cls`` from command-line words, or exit with code 2 and one sentence.

    default: an instance whose values the words override.
    """
    keywords = {} if default is None else {"default": default}
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                cls,
                prog=f"reformer {command}",
                args=list(words),
                config=(tyro.conf.OmitArgPrefixes,),
                **keywords,
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        print(f"reformer {command}: {_sentence(errors.getvalue())}", file=sys.stderr)
        raise


def _sentence(box: str) -> str:
    """What tyro's box says, without its borders and the help that it repeats."""
    lines = [line.strip("│╭╰╮╯ ") for line in box.splitlines()]
    body = [line for line in lines[1:] if line]
    text = " ".join(body)
    for end in ("Argument helptext", "For full helptext", "Perhaps you meant", "Got errors"):
        text = text.split(end)[0]
    for group in ("model", "training"):
        text = text.removeprefix(f"Error parsing {group}: ")
    return text.strip(" ─") or "the arguments could not be understood"
