"""SIGINT and SIGTERM while a command runs: it ends, and what it was making is tidied up.

Training and serving have more to do then and handle both themselves.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_IMPORTS = "<frozen importlib._bootstrap>"


@contextmanager
def signals_end_it() -> Iterator[None]:
    """Within it, either signal raises KeyboardInterrupt or SystemExit, unless it was ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _end) for number in heard}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    if _is_importing(frame):
        # Packages swallow what is raised while they are imported, and go on half imported.
        os._exit(128 + number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS:
            return True
        frame = frame.f_back
    return False
