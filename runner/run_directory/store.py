"""A file that must not lose a line: lines that cannot be written now are kept, in order, until they can.

Knows that disks fill up, that file systems turn read-only, and that somebody may remove, replace or edit a file while
it is written. Does not pause the run: the supervisor does while `trouble` is set. Does not put a file right that was
touched: `rankdeck.runner.run_directory.records` does.
"""

import contextlib
import errno
import io
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
        self._left = _as_left(path)
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
                self._grew(self._writer, len(self._backlog.popleft()))
            if self._unsynced:
                self._writer.sync(anyway=True)
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

    def save(self) -> None:
        """Write and sync the lines that are left.

        Raises:
            OSError: they cannot be written.
        """
        if not self.flush() and self.trouble is not None:
            raise OSError(errno.ENOSPC, f"{self.trouble}; {len(self._backlog)} lines are not on disk")
        if self._writer is not None:
            self._writer.sync()

    # --- what others do to the file -----------------------------------------------------------

    def touched(self) -> str | None:
        """What somebody has done to the file since the last line was written; None if it is as it was left."""
        if self._writer is None and self._left is not None:
            with contextlib.suppress(OSError):
                mend(self._path)  # what a failed write may have left
        try:
            status = self._path.stat()
        except OSError as error:
            if os.path.islink(self._path):  # which says False, too, where nothing can be found out
                return f"{self._path.name} was replaced by a link that leads nowhere"
            gone = error.errno == errno.ENOENT and self._left is not None
            return f"{self._path.name} was removed" if gone else None
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISCHR(status.st_mode):
            return f"{self._path.name} was replaced by something that is not a file"
        if self._left is None:
            return None
        device, inode, size = self._left
        if (status.st_dev, status.st_ino) != (device, inode):
            return f"{self._path.name} was replaced"
        if status.st_size != size:
            return f"{self._path.name} was {'cut short' if status.st_size < size else 'written to'} by somebody else"
        return None

    def hold(self, reason: str) -> None:
        """Keep all lines in memory from now on, until `resume` or a `flush` that succeeds."""
        self.trouble = reason

    def backlog(self) -> BinaryIO:
        """The lines in memory, as a file."""
        return io.BytesIO(b"".join(self._backlog))

    def resume(self, written: int = 0) -> None:
        """Go on with the file that is at the path now, which has the oldest `written` lines of the backlog already."""
        for _ in range(written):
            self._backlog.popleft()
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
        self._writer, self._left, self.trouble = None, _as_left(self._path), None
        self.flush()

    def __len__(self) -> int:
        """How many lines are in memory."""
        return len(self._backlog)

    def in_memory(self) -> list[bytes]:
        """The lines that are not in the file."""
        return list(self._backlog)

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO | None]:
        """The file that is written, to be read, even if it is at no path any more; None where that cannot be had."""
        file: BinaryIO | None = None
        with contextlib.suppress(OSError):
            if self._writer is not None:
                file = open(f"/proc/self/fd/{self._writer.descriptor}", "rb")  # noqa: SIM115
        try:
            yield file
        finally:
            if file is not None:
                file.close()

    def _grew(self, writer: LineWriter, size: int) -> None:
        if self._left is None:
            status = os.fstat(writer.descriptor)
            self._left = status.st_dev, status.st_ino, status.st_size
        else:
            device, inode, before = self._left
            self._left = device, inode, before + size

    def _set_trouble(self, error: OSError) -> None:
        self.trouble = f"{self._path.name} cannot be written: {error.strerror or os.strerror(error.errno or 0)}"


def _as_left(path: Path) -> tuple[int, int, int] | None:
    """Device, inode and size of the file, which tell whether it was touched; None if there is no file yet."""
    with contextlib.suppress(OSError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return status.st_dev, status.st_ino, status.st_size
    return None
