"""TensorBoard events, written by the thread that trains.

TensorBoard's own writer has a thread of its own, where a full disk ends in a traceback that no
one can catch. A training step writes a few hundred bytes: there is nothing to wait for.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventsFile:
    """One file of scalars. ImportError where the tensorboard package is not installed."""

    def __init__(self, folder: Path, last_step: int) -> None:
        """Begin a file in ``folder`` that replaces what others there hold after ``last_step``."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = Event
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "ab")  # noqa: SIM115 - closed by close()
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(step=last_step + 1, session_log=SessionLog(status=SessionLog.START))
        self._file.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append one step's numbers, and hand them to the system."""
        values = [{"tag": tag, "simple_value": value} for tag, value in scalars.items()]
        self._write(step=step, summary={"value": values})
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())
