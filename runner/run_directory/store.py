"""A file that must not lose a line: lines that cannot be written now are kept, in order, until they can.

Knows that disks fill up and file systems turn read-only. Does not pause the run: the supervisor does while `trouble` is
set.
"""

import errno
import os
from collections import deque
from pathlib import Path

from rankdeck.runner.run_directory.files import LineWriter, mend

MAX_KEPT_LINES = 100_000
"""Most lines kept of a file that may drop some (the journal); the oldest go first."""


class Store:
    """One file of lines, with a backlog in memory while it cannot be written."""

    def __init__(self, path: Path, *, may_drop: bool = False) -> None:
        self._path = path
        self._writer: LineWriter | None = None
        self._backlog: deque[bytes] = deque(maxlen=MAX_KEPT_LINES if may_drop else None)
        self._unsynced = False
        self.trouble: str | None = None

    def write(self, line: bytes) -> None:
        """Write a line, or keep it while that fails. Lines stay in order."""
        self._backlog.append(line)
        if self.trouble is None:
            self.flush()

    def flush(self) -> bool:
        """Try to write the lines that are kept. Returns whether none is left; if not, `trouble` says why."""
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
            # The next try opens the file again, which a file system that was away may need, and cuts off what this
            # write may have left of a line.
            self._writer = None
            return False
        self.trouble = None
        return True

    def sync(self) -> None:
        """Sync the written lines to disk. It may take a while: call it in a thread."""
        writer = self._writer
        try:
            if writer is not None:
                writer.sync()
        except OSError as error:
            # Some file systems report only here that there is no space.
            self._unsynced = True
            self._set_trouble(error)

    def close(self) -> None:
        """Write and sync the lines that are left.

        Raises:
            OSError: they cannot be written.
        """
        if not self.flush() and self.trouble is not None:
            raise OSError(errno.ENOSPC, f"{self.trouble}; {len(self._backlog)} lines are not on disk")
        if self._writer is not None:
            self._writer.close()

    def _set_trouble(self, error: OSError) -> None:
        self.trouble = f"{self._path.name} cannot be written: {error.strerror or os.strerror(error.errno or 0)}"
