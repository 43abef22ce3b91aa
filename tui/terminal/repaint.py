"""When to repaint the screen: up to four times a second, less often if that is too much for the line.

Pure: times and bytes in, yes or no out. Two rules. Nothing is written while the terminal has bytes left to take, so
that a slow line shows the newest state as often as it can, keys are answered, and no memory fills up. And if much
changes each time, repaints keep to a budget of bytes per second, but come every two seconds at least: a user who
goes through the views, which costs whole screens, still sees new figures.
"""

REPAINT_SECONDS = 0.25
SLOWEST_SECONDS = 2.0
SHARE = 0.5
"""The share of the time that repaints may take on a slow line: the rest is for the answers to keys."""

BYTES_A_SECOND = 9_000
BURST_BYTES = 9_000
"""The most that can be saved up. Twice as much can be owed, as whole screens are painted when they are asked for."""


class RepaintPace:
    """Asked at every beat, each REPAINT_SECONDS, whether to paint."""

    def __init__(self) -> None:
        self.interval = REPAINT_SECONDS
        """Seconds between two repaints that the line can take at present."""
        self._painted_at: float | None = None
        self._taken_at: float | None = None
        self._asked_at = 0.0
        self._written = 0
        self._saved = float(BURST_BYTES)

    def due(self, now: float, backlog: int = 0, written: int = 0) -> bool:
        """Whether to paint at `now`; of the bytes `written` until now the terminal has `backlog` yet to take."""
        self._save(now, written)
        if self._painted_at is None:
            return True
        if self._taken_at is None:
            if backlog:
                return False
            self._taken_at = now
            took = now - self._painted_at
            # Taken by the next beat counts as taken at once.
            wanted = REPAINT_SECONDS if took < 2 * REPAINT_SECONDS else took / SHARE
            # The interval grows at once and shrinks by halves: one quick repaint does not mean a quick line.
            self.interval = min(SLOWEST_SECONDS, max(wanted, self.interval / 2))
        if backlog:
            return False
        # A beat may come a little early.
        waited = now - self._painted_at + REPAINT_SECONDS / 5
        return waited >= (self.interval if self._saved > 0 else SLOWEST_SECONDS)

    def painted(self, now: float) -> None:
        """The screen was painted."""
        self._painted_at, self._taken_at = now, None

    def _save(self, now: float, written: int) -> None:
        saved = min(BURST_BYTES, self._saved + (now - self._asked_at) * BYTES_A_SECOND)
        self._saved = max(-2 * BURST_BYTES, saved - (written - self._written))
        self._asked_at, self._written = now, written
