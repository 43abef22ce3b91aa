"""A rank's log, followed as it grows. Knows no rank, only a file that somebody else writes."""

import os
from collections import deque
from pathlib import Path

from rankdeck.runner.run_directory.private_files import open_regular

MAX_BYTES_A_LOOK = 1024 * 1024
"""Of a log that grew by more than this since the last look, only the end is read: it must not fill memory."""

MAX_LINES_A_LOOK = 200
MAX_LINE = 2000
KEPT_LINES = 200


class LogTail:
    """Follows a log file from its present end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._rest = b""
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)

    def new_lines(self, *, last_look: bool = False) -> list[str]:
        """Whole lines since the last look; with `last_look` also a line that has no end yet."""
        try:
            with open_regular(self._path) as file:
                end = os.fstat(file.fileno()).st_size
                if end - self._position > MAX_BYTES_A_LOOK:
                    self._position, self._rest = end - MAX_BYTES_A_LOOK, b""
                file.seek(self._position)
                content = file.read(MAX_BYTES_A_LOOK)
                self._position = file.tell()
        except OSError:
            return []
        *whole, self._rest = (self._rest + content).replace(b"\r", b"\n").split(b"\n")
        if last_look and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        self._rest = self._rest[: 4 * MAX_LINE]  # bytes; a character has four at most
        lines = [line.decode("utf-8", "replace")[:MAX_LINE] for line in whole if line.strip()]
        self.recent.extend(lines)
        return lines[-MAX_LINES_A_LOOK:]
