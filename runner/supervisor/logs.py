"""New lines of the ranks' log files, as they grow.

A rank writes to a file rather than a pipe, so that what it says in its last moment is never lost.
"""

from collections import deque
from pathlib import Path

MAX_LINES_A_LOOK = 200
MAX_LINE = 2000
KEPT_LINES = 200


class LogTail:
    """Follows one file from where it ends now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._rest = b""
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)

    def new_lines(self, *, last_look: bool = False) -> list[str]:
        """Whole lines since the last look (at the last one, also a line without its end)."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                content = file.read()
                self._position = file.tell()
        except OSError:
            return []
        *whole, self._rest = (self._rest + content).replace(b"\r", b"\n").split(b"\n")
        if last_look and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        lines = [line.decode("utf-8", "replace")[:MAX_LINE] for line in whole if line.strip()]
        self.recent.extend(lines)
        return lines[-MAX_LINES_A_LOOK:]
