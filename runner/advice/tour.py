"""The tour: an autopilot that walks the knobs on the real work, and settles on the best setting it has measured. Pure.

It walks active ranks 1, 2, 4 … all at the batch size it finds, then doubles the batch size with all ranks. A setting is
measured as a person's would be: by its period (`runner.state.periods`), over whole warm batches. A tour that ends
before it has measured anything as good as where it began goes back there, and ranks that it has lowered go up again
when somebody else takes the knobs. Only a viewer that is killed in the middle of a walk leaves the run as it is: nobody
is there to send a command. Knows the state, not who sends its commands or shows its captions (`tui.words.tour`).
"""

from typing import Literal, NamedTuple

import msgspec

from rankdeck.runner.advice.tour_limits import (
    LARGEST,
    Setting,
    enough,
    fits,
    full,
    is_measured,
    steps_of_ranks,
    too_large,
)
from rankdeck.runner.protocol import Command, SetActiveRanks, SetBatchSize, TurnRefused
from rankdeck.runner.state import RunState
from rankdeck.runner.state.settings import all_settings, current_setting

LEAST_GAIN = 1.05
"""A doubling that brings less than this factor of tokens/s is the last."""

Why = Literal[
    "gain", "memory", "prompts", "largest", "ranks only", "capped", "refused", "ran out", "run stopped", "run failed"
]
"""Why a tour ended by itself."""

Taken = Literal["by hand", "left", "elsewhere", "paused", "search", "sweep", "stopping"]
"""Who or what cut a tour short; `left`: the user ended it, or closed the view that led it."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a setting brought, in output tokens/s."""

    setting: Setting
    rate: float


class Tour(msgspec.Struct, frozen=True, kw_only=True):
    """A tour under way, or over.

    `start` is where it began, and `began` what that had brought until then, if it was measured. `now` is the setting
    being measured, `before` the one it was asked for from, `number` that of the newest period when it was asked for,
    `refusal` the newest one then, `seen` whether the run has taken it over. `why` and `taken` say how it ended, and
    `rests` where that leaves the knobs.
    """

    ranks: int
    on_cpu: bool
    continuous: bool
    start: Setting
    now: Setting
    before: Setting
    number: int
    began: Measured | None = None
    refusal: TurnRefused | None = None
    seen: bool = False
    done: tuple[Measured, ...] = ()
    why: Why | None = None
    taken: Taken | None = None
    rests: Setting | None = None

    @property
    def over(self) -> bool:
        return self.why is not None or self.taken is not None

    @property
    def best(self) -> Measured | None:
        """The fastest setting measured; of equals the first.

        None as long as the start may be faster: neither that nor any setting with all ranks has been measured yet.
        """
        known = {one.setting for one in self.done}
        measured = self.done if self.began is None or self.start in known else (*self.done, self.began)
        compared = self.began is not None or self.start in known or any(each[0] == self.ranks for each in known)
        return max(measured, key=lambda one: one.rate, default=None) if compared else None


class Move(NamedTuple):
    """What comes next: the tour as it now is, and what to ask of the run. The tour is the same if it only waits."""

    tour: Tour
    commands: tuple[Command, ...] = ()


def begin(state: RunState) -> Move:
    """A tour from the current batch size, at one active rank; only if `why_no_tour` returns None."""
    here = _here(state)
    row = current_setting(state)
    tour = Tour(
        ranks=len(state.ranks),
        on_cpu=all(rank.device == "cpu" for rank in state.ranks),
        continuous=state.continuous and not state.stepwise,
        start=here,
        now=here,
        before=here,
        number=state.periods[-1].number,
        began=Measured(setting=here, rate=row.tokens_per_second) if row is not None and not row.cold else None,
        seen=True,
    )
    return _go(tour, state, Setting(1, here.batch_size))


def next_step(tour: Tour, state: RunState) -> Move:
    """What the tour does in this state: mostly it waits; after its end it asks for nothing."""
    if tour.over:
        return Move(tour)
    tour = _seen(tour, state)
    if (taken := _taken(tour, state)) is not None:
        return taken_over(tour, state, taken)
    if state.ended is not None:
        ways: dict[str, Why] = {"failed": "run failed", "stopped": "run stopped"}
        return _settle(tour, state, ways.get(state.ended.status, "ran out"))
    if not tour.seen and state.refusal is not None and state.refusal != tour.refusal:
        return _settle(msgspec.structs.replace(tour, seen=True), state, "refused")
    if too_large(state, tour.now):
        return _settle(tour, state, "capped")
    period = state.periods[-1]
    if not (tour.seen and is_measured(period, tour.now)):
        idle = all(rank.batch is None for rank in state.ranks)
        return _settle(tour, state, "ran out") if not state.pending and idle else Move(tour)
    new = Measured(setting=tour.now, rate=period.warm_rate or 0.0)
    measured = msgspec.structs.replace(tour, done=(*tour.done, new))
    following = _following(measured, state)
    if not isinstance(following, Setting):
        return _settle(measured, state, following)
    # Batches that are cut short would be booked as full ones: the present setting goes on until they are full.
    return _go(measured, state, following) if full(state, following) else Move(tour)


def up_to_date(tour: Tour, state: RunState) -> Tour:
    """A tour that is over, with what its settings have brought by now: the best one goes on being measured."""
    brought = {
        Setting(row.active_ranks, row.batch_size): row.tokens_per_second for row in all_settings(state) if not row.cold
    }

    def now(one: Measured) -> Measured:
        return msgspec.structs.replace(one, rate=brought.get(one.setting, one.rate))

    began = now(tour.began) if tour.began is not None else None
    return msgspec.structs.replace(tour, began=began, done=tuple(map(now, tour.done)))


def taken_over(tour: Tour, state: RunState, taken: Taken = "by hand", *, ranks_too: bool = False) -> Move:
    """The tour cut short.

    Whoever takes a knob finds the other as it is, except that ranks which the tour has lowered go up again, unless they
    turn the ranks themselves (`ranks_too`). A user who leaves gets the best setting so far, or the one it began at.
    """
    if tour.over:
        return Move(tour)
    tour = msgspec.structs.replace(tour, taken=taken)
    if taken == "left":
        return _rest(tour, state)
    heading = _heading(tour, state)
    ranks = heading.active_ranks if ranks_too else _ranks_back(tour, state)
    if taken in ("sweep", "stopping"):  # no turn of a knob is heard any more
        return Move(msgspec.structs.replace(tour, rests=heading))
    target = Setting(ranks, heading.batch_size)
    return Move(msgspec.structs.replace(tour, rests=target), _turns(heading, target))


def _following(tour: Tour, state: RunState) -> Setting | Why:
    """The setting after the one just measured, or why there is none."""
    ranks, size = tour.now
    if ranks < tour.ranks:
        following = Setting(next(step for step in steps_of_ranks(tour.ranks) if step > ranks), size)
        return following if enough(state, following) else "prompts"
    if tour.continuous:
        return "ranks only"
    before = next((one for one in tour.done if one.setting == (ranks, size // 2) and size % 2 == 0), None)
    if before is not None and tour.done[-1].rate < LEAST_GAIN * before.rate:
        return "gain"
    following = Setting(ranks, 2 * size)
    if following.batch_size > LARGEST:
        return "largest"
    if not enough(state, following):
        return "prompts"
    return following if fits(state, following) else "memory"


def _here(state: RunState) -> Setting:
    return Setting(state.active_ranks, state.batch_size)


def _heading(tour: Tour, state: RunState) -> Setting:
    """Where the knobs will stand once the run has heard the tour's last command."""
    return _here(state) if tour.seen else tour.now


def _ranks_back(tour: Tour, state: RunState) -> int:
    """The active ranks to end with: not fewer than the tour began with, unless somebody else has set them."""
    here, asked = state.active_ranks, tour.now.active_ranks
    untouched = here == asked or (not tour.seen and here == tour.before.active_ranks)
    return max(tour.start.active_ranks, asked) if untouched else here


def _seen(tour: Tour, state: RunState) -> Tour:
    if not tour.seen and _here(state) == tour.now:
        return msgspec.structs.replace(tour, seen=True, number=state.periods[-1].number)
    return tour


def _taken(tour: Tour, state: RunState) -> Taken | None:
    """What has ended the tour from outside, if anything has: another viewer may turn the knobs too."""
    if state.ended is not None:
        return None
    if state.phase == "stopping":
        return "stopping"
    if state.sweeping:
        return "sweep"
    if state.auto:
        return "search"
    if state.paused == "asked for":
        return "paused"
    here, number = _here(state), state.periods[-1].number
    if tour.seen:
        return None if here == tour.now and number == tour.number else "elsewhere"
    return None if here == tour.before and number == tour.number else "elsewhere"


def _go(tour: Tour, state: RunState, setting: Setting) -> Move:
    """On to another setting; if the knobs stand there already, its period so far counts."""
    here = _here(state)
    tour = msgspec.structs.replace(
        tour,
        now=setting,
        before=here,
        number=state.periods[-1].number,
        refusal=state.refusal,
        seen=here == setting,
    )
    return Move(tour, _turns(here, setting))


def _settle(tour: Tour, state: RunState, why: Why) -> Move:
    """The end of the walk."""
    return _rest(msgspec.structs.replace(tour, why=why), state)


def _rest(tour: Tour, state: RunState) -> Move:
    """On to the best setting, or back to where the tour began, if there are prompts left for it."""
    heading = _heading(tour, state)
    if state.ended is not None or not state.pending:
        return Move(msgspec.structs.replace(tour, rests=heading))
    target = tour.best.setting if tour.best is not None else tour.start
    return Move(msgspec.structs.replace(tour, rests=target), _turns(heading, target))


def _turns(here: Setting, setting: Setting) -> tuple[Command, ...]:
    """The commands from one setting to another."""
    ranks = (SetActiveRanks(active_ranks=setting.active_ranks),) if setting.active_ranks != here.active_ranks else ()
    size = (SetBatchSize(batch_size=setting.batch_size),) if setting.batch_size != here.batch_size else ()
    return (*ranks, *size)
