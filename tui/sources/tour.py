"""Guides a run through the tour: gives each new state to the planner, and passes on its commands and captions.

Used by the dashboard (`FollowedRun`) and by `--plain` alike. Knows when a user takes over; sends and draws nothing. A
tour lives in its viewer: one that leaves in an orderly way sends what `leave` returns first, and one that is killed
outright leaves the run at the setting it was measuring.
"""

from typing import NamedTuple

from rankdeck.runner.advice.tour import Move, Tour, begin, next_step, taken_over, up_to_date
from rankdeck.runner.advice.tour_limits import why_no_tour
from rankdeck.runner.protocol import Command, SetActiveRanks, Stop
from rankdeck.runner.state import RunState
from rankdeck.runner.state.periods import KnobPeriod
from rankdeck.tui.words.tour import Captions, captions, result_words

PARTING_SECONDS = 10.0
"""How long it is said that the user has taken over."""


class Heard(NamedTuple):
    """What follows from a state: commands for the run, and lines for people, in their longest form."""

    commands: tuple[Command, ...] = ()
    said: tuple[str, ...] = ()


class TourGuide:
    """At most one tour at a time. With `wanted` one begins as soon as the run is under way."""

    def __init__(self, *, wanted: bool = False) -> None:
        self._wanted = wanted
        self._tour: Tour | None = None
        self._refused: str | None = None
        self._over_at: float | None = None
        self._measured: tuple[KnobPeriod, ...] = ()

    @property
    def under_way(self) -> bool:
        return self._tour is not None and not self._tour.over

    @property
    def captions(self) -> Captions:
        """What to show of the tour now; empty if there is nothing to say."""
        if self._refused is not None:
            return (self._refused,)
        return captions(self._tour) if self._tour is not None else ()

    def begin(self, state: RunState) -> Heard | str:
        """Begin a tour, or say why none can begin, for people."""
        self._wanted, self._refused = False, None
        if (why := why_no_tour(state)) is not None:
            return f"No tour now: {why}."
        return self._follow(begin(state), state)

    def hear(self, state: RunState) -> Heard:
        """Take in the newest state."""
        if self._wanted:
            return self._begin_if_ready(state)
        if self._over_at is not None and state.now - self._over_at > PARTING_SECONDS:
            self._tour = self._refused = self._over_at = None
        if not self.under_way:
            if self._tour is not None and state.periods is not self._measured:
                self._tour, self._measured = up_to_date(self._tour, state), state.periods
            return Heard()
        assert self._tour is not None
        return self._follow(next_step(self._tour, state), state)

    def take_over(self, state: RunState, command: Command | None = None, *, ranks: bool = False) -> Heard:
        """The user steers: a tour ends at once, and its result is no longer shown.

        `command` is what the user is about to send, None for a knob that is at its end; `ranks` if that is the one of
        the ranks. The commands returned are to be sent before it.
        """
        if self._wanted:
            self._wanted, self._refused, self._over_at = False, "No tour: you have the knobs.", state.now
            return Heard(said=(self._refused,))
        if not self.under_way:
            self._tour = self._refused = self._over_at = None
            return Heard()
        assert self._tour is not None
        # More ranks would begin batches that a stop then has to wait for.
        stays = ranks or isinstance(command, SetActiveRanks | Stop)
        return self._follow(taken_over(self._tour, state, ranks_too=stays), state)

    def leave(self, state: RunState) -> Heard:
        """The user ends the tour, or leaves the run: it goes on at the best setting so far, or where the tour began."""
        if not self.under_way:
            return Heard()
        assert self._tour is not None
        return self._follow(taken_over(self._tour, state, "left"), state)

    def _begin_if_ready(self, state: RunState) -> Heard:
        going = state.ready_at is not None and state.periods and state.phase == "running"
        if not going and state.ended is None and state.phase != "stopping":
            return Heard()
        heard = self.begin(state)
        if isinstance(heard, Heard):
            return heard
        self._refused, self._over_at = heard, state.now
        return Heard(said=(heard,))

    def _follow(self, move: Move, state: RunState) -> Heard:
        before, self._tour = self._tour, move.tour
        same_tour = before is not None and not before.over
        said = []
        if same_tour and before is not None and len(move.tour.done) > len(before.done):
            said.append(result_words(move.tour))
        if not same_tour or before is None or (move.tour.now, move.tour.over) != (before.now, before.over):
            said.append(captions(move.tour)[0])
        # A result stays until the user turns a knob; that somebody took over is soon old news.
        self._over_at = state.now if move.tour.taken is not None else None
        return Heard(move.commands, tuple(said))
