"""All connected viewers: how many there may be, and how much may wait for each.

A viewer that reads too slowly loses events, and gets one fresh snapshot when it reads again; it slows nobody down.
Knows lines, not what is in them.
"""

import asyncio
from collections.abc import Callable

from rankdeck.runner.supervisor.door.peers import COMMAND_BYTES, Lines, Peer

MOST_VIEWERS = 32

VIEWER_BACKLOG_BYTES = 4 * 1024 * 1024
"""Unread bytes of a viewer; only a snapshot, sent to one that has read everything, may be longer."""


class Viewer(Peer):
    """A connected viewer, which has greeted. `lagging`: it has lost events, and gets a snapshot once it reads again."""

    def __init__(self, lines: Lines, writer: asyncio.StreamWriter) -> None:
        super().__init__(lines, writer)
        lines.most = COMMAND_BYTES
        self.lagging = False


class Viewers:
    """All connected viewers. `snapshot` returns the present state as a line."""

    def __init__(self, snapshot: Callable[[], bytes]) -> None:
        self._snapshot = snapshot
        self._viewers: set[Viewer] = set()

    def __len__(self) -> int:
        return len(self._viewers)

    def why_no_more(self) -> str | None:
        """Why no further viewer is let in; None while there is room."""
        if len(self._viewers) < MOST_VIEWERS:
            return None
        return f"{len(self._viewers)} viewers are connected already, the most a run takes; close one and try again"

    def add(self, viewer: Viewer) -> None:
        viewer.write(self._snapshot())
        self._viewers.add(viewer)

    def remove(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)

    def offer(self, line: bytes) -> None:
        """Send an event to every viewer that keeps up."""
        for viewer in self._viewers:
            if viewer.lagging:
                continue
            if viewer.backlog + len(line) > VIEWER_BACKLOG_BYTES:
                viewer.lagging = True
            else:
                viewer.write(line)

    def catch_up(self) -> None:
        """Send a fresh snapshot to every viewer that had fallen behind and has read all that was sent to it."""
        for viewer in self._viewers:
            if viewer.lagging and not viewer.backlog:
                viewer.lagging = False
                viewer.write(self._snapshot())

    async def close(self, seconds: float) -> None:
        """Let viewers read to the end, for up to `seconds`, and hang up."""
        await asyncio.gather(*(self._to_the_end(viewer, seconds) for viewer in self._viewers))

    async def _to_the_end(self, viewer: Viewer, seconds: float) -> None:
        if viewer.lagging:
            # Once it has read what was written before, the last snapshot has what it missed.
            await viewer.drained(seconds)
            viewer.write(self._snapshot())
        await viewer.drained(seconds)
        viewer.close()
