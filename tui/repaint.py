"""When the screen is painted anew: four times a second at most, more seldom while the terminal is slow to take it.

Pure: times and a backlog in, yes or no out. What is not yet taken by the terminal is old news: nothing is put on
top of it. So a slow line shows the newest state as often as it can, keys are answered, and no memory fills up.
"""

REPAINT_SECONDS = 0.25
SLOWEST_SECONDS = 2.0
SHARE = 0.5
"""Of the time, painting takes so much at most: the rest of a slow line is for the answers to keys."""


class RepaintPace:
    """Asked at every beat of REPAINT_SECONDS whether this is one to paint at."""

    def __init__(self) -> None:
        self.interval = REPAINT_SECONDS
        """Seconds between two repaints now."""
        self._painted_at: float | None = None
        self._taken_at: float | None = None

    def due(self, now: float, backlog: int) -> bool:
        """Whether to paint at `now`, while the terminal has `backlog` characters yet to take."""
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
        # A beat that comes a little early is that beat all the same.
        return not backlog and now - self._painted_at >= self.interval - REPAINT_SECONDS / 5

    def painted(self, now: float) -> None:
        """The screen was painted."""
        self._painted_at, self._taken_at = now, None
