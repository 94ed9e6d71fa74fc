"""Stopping on SIGINT and SIGTERM: finish the step, save, leave."""

import contextlib
import os
import signal
import threading
from types import FrameType

_STDERR = 2


class StopRequestedError(Exception):
    """The user, or the system, asked to stop. exit_code: 128 + the signal's number."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"stopped with exit code {exit_code}")
        self.exit_code = exit_code


class StopRequest:
    """While active, the first signal is remembered; the second ends the program at once."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._exit_code: int | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def exit_code(self) -> int | None:
        """128 + the number of the signal that has come, if one has."""
        return self._exit_code

    def check(self) -> None:
        """Raise ``StopRequestedError`` if a signal has come."""
        if self._exit_code is not None:
            raise StopRequestedError(self._exit_code)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._exit_code is not None:
            raise SystemExit(128 + number)
        self._exit_code = 128 + number
        # Printing is not safe here: the signal may have come in the middle of it.
        with contextlib.suppress(OSError):
            os.write(_STDERR, b"Stopping after this step; everything will be saved. ")
            os.write(_STDERR, b"Again: stop at once.\n")
