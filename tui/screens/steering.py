"""The actions that steer a run: batch size, active ranks, pause, tour; for the run's screen and a dialog above it.

Knows what to ask of the followed run, and what to say where a key can do nothing; whether the run agrees comes back as
an event. Keys are declared in `run_keys`.
"""

from typing import TYPE_CHECKING

from textual.message_pump import MessagePump

from rankdeck.tui.settings.hint_keys import named
from rankdeck.tui.sources.followed_run import FollowedRun
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.words.status import ASKED_FOR

if TYPE_CHECKING:
    from rankdeck.tui.screens.batch_size import Typed

KNOBS = ("batch_size", "ranks", "type_batch_size", "auto_batch_size")
"""The actions of the knobs."""


class Steering(MessagePump):
    """Mixed into a screen; no DOMNode, because Textual looks for the rules of style along the first of those only."""

    app: Deck
    followed: FollowedRun

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that steer are offered while the run can be steered; knobs, once there are ranks for them to act on."""
        if action == "pause":
            return self.followed.steers
        state = self.followed.state
        ready = True if state.ready_at is not None else None
        if action == "tour":
            return self.followed.steers and ready  # anything else in its way is told in words
        if action in KNOBS:
            if state.sweeping:
                return False  # the trials turn these knobs
            return self.followed.steers and ready
        return True

    async def action_batch_size(self, up: bool) -> None:
        command = self.followed.knobs.turn_batch_size(self.followed.state, up=up)
        if command is not None:
            await self.followed.ask(command)
        else:
            await self.followed.take_over()
            self.app.say("No batch is larger." if up else "A batch has one prompt at least.")

    async def action_ranks(self, by: int) -> None:
        command = self.followed.knobs.turn_active_ranks(self.followed.state, by=by)
        if command is not None:
            await self.followed.ask(command)
        else:
            await self.followed.take_over(ranks=True)
            pausing = named("One rank stays active; {run.pause} pauses the run.", self.app.keys)
            self.app.say("All ranks are active." if by > 0 else pausing)

    async def action_auto_batch_size(self) -> None:
        await self.followed.ask(self.followed.knobs.set_batch_size(self.followed.state, None))

    def action_type_batch_size(self) -> None:
        from rankdeck.tui.screens.batch_size import BatchSizeScreen

        self.app.push_screen(BatchSizeScreen(self.followed.state.batch_size), self._typed)

    async def _typed(self, typed: "Typed | None") -> None:
        if typed is not None:
            wanted = None if typed == "auto" else typed
            await self.followed.ask(self.followed.knobs.set_batch_size(self.followed.state, wanted))

    async def action_pause(self) -> None:
        paused = self.followed.state.paused
        if paused is not None and paused != ASKED_FOR:
            self.app.say("The run goes on by itself once what pauses it is mended.")
            return
        await self.followed.ask(self.followed.knobs.turn_pause(self.followed.state))

    async def action_tour(self) -> None:
        if self.followed.tour.under_way:
            await self.followed.end_tour()
        elif (why := await self.followed.begin_tour()) is not None:
            self.app.say(why)
