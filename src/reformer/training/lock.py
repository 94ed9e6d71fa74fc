"""One process at a time works on a run.

The lock is the kernel's: it ends with the process that holds it, however that dies. The file
stays behind and means nothing by itself.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reformer import durable
from reformer.training.run import RunError

LOCK_FILE = "lock"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's lock, and tidy up what a crash left; RunError when another process does."""
    try:
        descriptor = os.open(run / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RunError(f"cannot lock {run}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode("ascii", errors="replace").strip()
            raise RunError(
                f"another process ({holder or 'unknown'}) is training {run}: "
                "stop it first, or wait for its end"
            ) from error
        except OSError as error:
            raise RunError(f"cannot lock {run}: {error.strerror}") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        durable.finish_replacing(run)
        durable.clear_temporary(run)
        yield
    finally:
        os.close(descriptor)
