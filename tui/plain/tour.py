"""A tour led without a screen: what it says are lines of the log, and the table of settings when it ends.

Sends the tour's commands through the run's source. Knows neither how the walk goes on (`runner.advice.tour`) nor its
words (`tui.words.tour`).
"""

import contextlib

from rankdeck.runner.protocol import Command, RunEnded
from rankdeck.runner.state import RunState, Snapshot, ToViewer, apply
from rankdeck.tui.plain.status import table_lines
from rankdeck.tui.plain.view import PlainView
from rankdeck.tui.sources.client import Source
from rankdeck.tui.sources.tour import Heard, TourGuide
from rankdeck.tui.terminal.inert import OutputError


class PlainTour:
    """The tour of one run, if it is `wanted`; `view` prints what it says."""

    def __init__(self, source: Source, view: PlainView, *, wanted: bool) -> None:
        self._source, self._view = source, view
        self._guide = TourGuide(wanted=wanted)

    async def show(self, message: ToViewer) -> None:
        """Print a message's lines, then what the tour makes of it; at the run's end, whose lines come last, before."""
        if self._guide.under_way and isinstance(message, RunEnded | Snapshot):
            state = message.state if isinstance(message, Snapshot) else apply(self._view.state, message)
            if state.ended is not None:
                await self._follow(self._guide.hear(state), state)
        self._view.show(message)
        await self._follow(self._guide.hear(self._view.state), self._view.state)

    async def ask(self, command: Command) -> None:
        """Send a user's command, which ends the tour."""
        heard = self._guide.take_over(self._view.state, command)
        await self._source.send(command)
        await self._follow(heard, self._view.state)

    async def leave(self) -> None:
        """End the tour before this viewer leaves the run."""
        with contextlib.suppress(OSError, OutputError):  # perhaps nobody reads any more
            await self._follow(self._guide.leave(self._view.state), self._view.state)

    async def _follow(self, heard: Heard, state: RunState) -> None:
        for command in heard.commands:
            await self._source.send(command)
        if heard.said:
            # With no more than a round left the run is about to end, and its last lines have the same table.
            goes_on = state.ended is None and state.pending > state.active_ranks * state.batch_size
            table = table_lines(state) if goes_on and not self._guide.under_way else []
            self._view.add([f"tour: {line}" for line in heard.said], table)
