"""Files of a run that must not lose a line: what cannot be written now is kept, in order, until it can.

Knows that disks fill up and file systems turn read-only. Does not know what a run does about it: it
asks `trouble`, and pauses.
"""

import errno
import os
from collections import deque
from pathlib import Path

from rankdeck.runner.run_directory.files import LineWriter, mend

MAX_KEPT_LINES = 100_000
"""Of lines that may be dropped (the journal's): the oldest go first."""


class Store:
    """One file of lines, with a backlog in memory while it cannot be written."""

    def __init__(self, path: Path, *, may_drop: bool = False) -> None:
        self._path = path
        self._writer: LineWriter | None = None
        self._backlog: deque[bytes] = deque(maxlen=MAX_KEPT_LINES if may_drop else None)
        self._unsynced = False
        self.trouble: str | None = None

    def write(self, line: bytes) -> None:
        """Hand a line to the system, or keep it while that fails. Lines stay in order."""
        self._backlog.append(line)
        if self.trouble is None:
            self.flush()

    def flush(self) -> bool:
        """Try to write what is kept. Returns whether nothing is left; if not, `trouble` says why."""
        try:
            if self._writer is None:
                if self.trouble is not None:
                    mend(self._path)
                self._writer = LineWriter(self._path)
            while self._backlog:
                self._writer.write(self._backlog[0])
                self._backlog.popleft()
            if self._unsynced:
                self._writer.sync()
                self._unsynced = False
        except OSError as error:
            self._set_trouble(error)
            # Opened again at the next try: a file system that came back may need it. What a failed write
            # may have left of a line is cut off then.
            self._writer = None
            return False
        self.trouble = None
        return True

    def sync(self) -> None:
        """Have what was written on disk. For a thread: it may take long."""
        writer = self._writer
        try:
            if writer is not None:
                writer.sync()
        except OSError as error:
            # Some file systems say only here that there is no space.
            self._unsynced = True
            self._set_trouble(error)

    def close(self) -> None:
        """Write and sync what is left.

        Raises:
            OSError: it cannot be written.
        """
        if not self.flush() and self.trouble is not None:
            raise OSError(errno.ENOSPC, f"{self.trouble}; {len(self._backlog)} lines are not on disk")
        if self._writer is not None:
            self._writer.close()

    def _set_trouble(self, error: OSError) -> None:
        self.trouble = f"{self._path.name} cannot be written: {error.strerror or os.strerror(error.errno or 0)}"
