"""The progress bar of `--plain`: the last line of a terminal, redrawn in place while other lines scroll above it.

Knows a terminal's stream and two control codes, not what the line says.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from rankdeck.tui.terminal.inert import unguarded
from rankdeck.tui.words.text import visible

REDRAW_SECONDS = 0.25
ERASE = "\r\x1b[K"


def bar_stream() -> TextIO | None:
    """Where to draw a bar: stderr, else stdout; None if neither is a terminal or TERM is dumb."""
    if os.environ.get("TERM", "dumb") in ("", "dumb"):
        return None
    return next((stream for stream in (sys.stderr, sys.stdout) if stream.isatty()), None)


class BottomLine:
    """A line that stays at the bottom of the terminal."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._terminal = unguarded(stream)
        self._clock = clock
        self._drawn_at: float | None = None
        self._text = ""
        try:
            "█░".encode(stream.encoding or "ascii")
            self.signs = ("█", "░")
        except (UnicodeEncodeError, LookupError):
            self.signs = ("#", ".")

    @property
    def width(self) -> int:
        """One cell less than the terminal has: some begin a new line after the last cell."""
        try:
            return max(1, os.get_terminal_size(self._stream.fileno()).columns - 1)
        except OSError:
            return 79

    @property
    def due(self) -> bool:
        return self._drawn_at is None or self._clock() - self._drawn_at >= REDRAW_SECONDS

    def draw(self, text: str) -> None:
        """Show `text` from now on."""
        self._drawn_at = self._clock()
        if (text := visible(text)) != self._text:
            self._text = text
            self._put(ERASE + text)

    def write_above(self, stream: TextIO, text: str) -> None:
        """Write whole lines to `stream`, which may be the terminal of the bar."""
        if not self._text:
            stream.write(text)
            return
        if stream is self._stream:
            self._put(f"{ERASE}{visible(text, keep_newlines=True)}{self._text}")
            return
        self._put(ERASE)
        stream.write(text)
        stream.flush()
        self._put(self._text)

    def close(self) -> None:
        """Erase the bar."""
        if self._text:
            self._text = ""
            self._put(ERASE)

    def _put(self, text: str) -> None:
        self._terminal.write(text)
        self._terminal.flush()
