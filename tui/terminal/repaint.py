"""When the screen is painted anew: four times a second at most, more seldom where that is much for the line.

Pure: times and bytes in, yes or no out. Two rules. What the terminal has not yet taken is old news: nothing is put
on top of it; so a slow line shows the newest state as often as it can, keys are answered, and no memory fills up.
And a picture of which much changes each time is painted as often as a budget of bytes per second lets it. Either way
once in two seconds at least: whoever goes from view to view asks for whole screens, and is to see news all the same.
"""

REPAINT_SECONDS = 0.25
SLOWEST_SECONDS = 2.0
SHARE = 0.5
"""Of the time, painting takes so much at most: the rest of a slow line is for the answers to keys."""

BYTES_A_SECOND = 9_000
BURST_BYTES = 9_000
"""So much may have been saved up, and twice as much is owed at most: whole screens were asked for, and may come."""


class RepaintPace:
    """Asked at every beat of REPAINT_SECONDS whether this is one to paint at."""

    def __init__(self) -> None:
        self.interval = REPAINT_SECONDS
        """Seconds between two repaints now, as the line takes them."""
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
            # Taken by the next beat is as good as at once.
            wanted = REPAINT_SECONDS if took < 2 * REPAINT_SECONDS else took / SHARE
            # It stretches at once, and comes back by halves: one quick repaint does not make a quick line.
            self.interval = min(SLOWEST_SECONDS, max(wanted, self.interval / 2))
        if backlog:
            return False
        # A beat that comes a little early is that beat all the same.
        waited = now - self._painted_at + REPAINT_SECONDS / 5
        return waited >= (self.interval if self._saved > 0 else SLOWEST_SECONDS)

    def painted(self, now: float) -> None:
        """The screen was painted."""
        self._painted_at, self._taken_at = now, None

    def _save(self, now: float, written: int) -> None:
        saved = min(BURST_BYTES, self._saved + (now - self._asked_at) * BYTES_A_SECOND)
        self._saved = max(-2 * BURST_BYTES, saved - (written - self._written))
        self._asked_at, self._written = now, written
