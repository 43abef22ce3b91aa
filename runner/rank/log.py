"""A rank's log: the file that gets everything its process prints.

Printing never raises: a full disk costs lines of the log, not the batch whose model printed them.
"""

import faulthandler
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def log_to(path: Path) -> None:
    """Send this process's output to the file, including that of C libraries, and crash traces.

    Raises:
        OSError: the file cannot be opened.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    sys.stdout, sys.stderr = _text(1), _text(2)
    faulthandler.enable()


def _text(descriptor: int) -> io.TextIOWrapper:
    # Unbuffered: lines stay in order, and nothing is left to flush at an exit on the spot.
    file = _LogFile(descriptor, "w", closefd=False)
    return io.TextIOWrapper(file, "utf-8", "backslashreplace", write_through=True)


class _LogFile(io.FileIO):
    def write(self, data: "ReadableBuffer") -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
