"""The tour: an autopilot that walks the knobs on the real work, and settles on the best setting it has measured. Pure.

It walks active ranks 1, 2, 4 … all at the batch size it finds, then doubles the batch size with all ranks. A setting is
measured as a person's would be: by its period (`runner.state.periods`), over whole warm batches. Knows the state, not
who sends its commands or shows its captions (`tui.words.tour`).
"""

from typing import Literal, NamedTuple

import msgspec

from rankdeck.runner.protocol import Command, SetActiveRanks, SetBatchSize
from rankdeck.runner.state import RunState
from rankdeck.runner.state.periods import KnobPeriod

LEAST_SECONDS = 2.0
"""A setting is measured for at least this long on each rank."""

LEAST_GAIN = 1.05
"""A doubling that brings less than this factor of tokens/s is the last."""

LARGEST = 256
"""No batch size beyond this is tried."""

LEAST_ROUNDS = 1.5
"""A setting is tried only if so many of its global batches are left."""

Why = Literal["gain", "memory", "prompts", "largest", "ranks only", "capped", "ran out"]
"""Why a tour has come to its end by itself: the last three words on its walk."""

Taken = Literal["by hand", "elsewhere", "paused", "search", "sweep", "stopping"]
"""Who or what has ended a tour before its end."""


class Setting(NamedTuple):
    """Where the two knobs stand."""

    active_ranks: int
    batch_size: int


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a setting brought, in output tokens/s."""

    setting: Setting
    rate: float


class Tour(msgspec.Struct, frozen=True, kw_only=True):
    """A tour under way, or over.

    `now` is the setting being measured, `before` the one it was asked for from, `number` that of the newest period
    when it was asked for, `seen` whether the run has taken it over. `why` and `taken` say how it ended.
    """

    ranks: int
    on_cpu: bool
    continuous: bool
    now: Setting
    before: Setting
    number: int
    seen: bool = False
    done: tuple[Measured, ...] = ()
    why: Why | None = None
    taken: Taken | None = None

    @property
    def over(self) -> bool:
        return self.why is not None or self.taken is not None

    @property
    def best(self) -> Measured | None:
        """The fastest setting measured; of equals the first."""
        return max(self.done, key=lambda one: one.rate, default=None)


class Move(NamedTuple):
    """What comes next: the tour as it now is, and what to ask of the run. The tour is the same if it only waits."""

    tour: Tour
    commands: tuple[Command, ...] = ()


def why_no_tour(state: RunState) -> str | None:
    """Why a tour cannot begin now, for people; None if it can."""
    if state.ended is not None or state.phase == "stopping":
        return "the run is over" if state.ended is not None else "the run is stopping"
    if state.ready_at is None or not state.periods or state.phase != "running":
        return "not all ranks are ready"
    if state.sweeping:
        return "a sweep is at work, and turns the knobs itself"
    if state.auto:
        return "the search for the best batch size is at work"
    if state.paused is not None:
        return "the run is paused"
    if state.continuous and len(state.ranks) == 1:
        return "there is one rank only, and batch size means something else to the continuous engine"
    if not state.pending:
        return "every prompt has its answer or is in a rank's hands"
    if not _enough(state, Setting(1, state.batch_size)):
        return "too few prompts are left to measure a setting"
    return None


def begin(state: RunState) -> Move:
    """A tour from the present batch size, at one active rank; only where `why_no_tour` has nothing to say."""
    here = _here(state)
    tour = Tour(
        ranks=len(state.ranks),
        on_cpu=all(rank.device == "cpu" for rank in state.ranks),
        continuous=state.continuous,
        now=here,
        before=here,
        number=state.periods[-1].number,
        seen=True,
    )
    return _go(tour, state, Setting(1, here.batch_size))


def next_step(tour: Tour, state: RunState) -> Move:
    """What the tour does on this state: mostly it waits; after its end it asks for nothing."""
    if tour.over:
        return Move(tour)
    tour = _seen(tour, state)
    if (taken := _taken(tour, state)) is not None:
        return Move(taken_over(tour, taken))
    if state.ended is not None:
        return Move(msgspec.structs.replace(tour, why="ran out"))
    if any(cap < tour.now.batch_size for cap in _caps(state, tour.now)):
        return _settle(tour, state, "capped")
    period = state.periods[-1]
    if not (tour.seen and _is_measured(period, tour.now)):
        idle = all(rank.batch is None for rank in state.ranks)
        return _settle(tour, state, "ran out") if not state.pending and idle else Move(tour)
    new = Measured(setting=tour.now, rate=period.warm_rate or 0.0)
    tour = msgspec.structs.replace(tour, done=(*tour.done, new))
    following = _following(tour, state)
    return _go(tour, state, following) if isinstance(following, Setting) else _settle(tour, state, following)


def taken_over(tour: Tour, taken: Taken = "by hand") -> Tour:
    """The tour ended before its end: the run goes on as it is."""
    return tour if tour.over else msgspec.structs.replace(tour, taken=taken)


def _following(tour: Tour, state: RunState) -> Setting | Why:
    """The setting after the one just measured, or why there is none."""
    ranks, size = tour.now
    if ranks < tour.ranks:
        following = Setting(min(2 * ranks, tour.ranks), size)
        return following if _enough(state, following) else "prompts"
    if tour.continuous:
        return "ranks only"
    before = next((one for one in tour.done if one.setting == (ranks, size // 2) and size % 2 == 0), None)
    if before is not None and tour.done[-1].rate < LEAST_GAIN * before.rate:
        return "gain"
    following = Setting(ranks, 2 * size)
    if following.batch_size > LARGEST:
        return "largest"
    if not _enough(state, following):
        return "prompts"
    return following if _fits(state, following) else "memory"


def _enough(state: RunState, setting: Setting) -> bool:
    return state.pending >= LEAST_ROUNDS * setting.active_ranks * setting.batch_size


def _caps(state: RunState, setting: Setting) -> list[int]:
    return [rank.cap for rank in state.ranks[: setting.active_ranks] if rank.cap is not None]


def _fits(state: RunState, setting: Setting) -> bool:
    """Whether twice the rows fit in memory, by what the present rows have taken beside the weights."""
    if any(cap < setting.batch_size for cap in _caps(state, setting)):
        return False
    for device in state.devices:
        free, more = device.sample.memory_free_bytes, 0
        for rank in state.ranks[: setting.active_ranks]:
            if rank.rank not in device.ranks or rank.peak_memory_bytes is None:
                continue
            weights = (rank.ready.parameter_bytes if rank.ready is not None else None) or 0
            kept_back = max(0, (rank.reserved_memory_bytes or 0) - rank.peak_memory_bytes)
            more += max(0, rank.peak_memory_bytes - weights) - kept_back
        if free is not None and more > free:
            return False
    return True


def _is_measured(period: KnobPeriod, setting: Setting) -> bool:
    if (period.active_ranks, period.batch_size) != setting or period.warm_rate is None:
        return False
    return all(share.seconds >= LEAST_SECONDS for share in period.shares.values())


def _here(state: RunState) -> Setting:
    return Setting(state.active_ranks, state.batch_size)


def _seen(tour: Tour, state: RunState) -> Tour:
    if not tour.seen and _here(state) == tour.now:
        return msgspec.structs.replace(tour, seen=True, number=state.periods[-1].number)
    return tour


def _taken(tour: Tour, state: RunState) -> Taken | None:
    """What has ended the tour from outside, if anything has: another viewer may turn the knobs as well."""
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
        tour, now=setting, before=here, number=state.periods[-1].number, seen=here == setting
    )
    return Move(tour, _turns(here, setting))


def _settle(tour: Tour, state: RunState, why: Why) -> Move:
    """The end: on to the best setting, if there are prompts left for it."""
    tour = msgspec.structs.replace(tour, why=why)
    best = tour.best
    return Move(tour, _turns(_here(state), best.setting) if best is not None and state.pending else ())


def _turns(here: Setting, setting: Setting) -> tuple[Command, ...]:
    """The commands from one setting to another."""
    ranks = (SetActiveRanks(active_ranks=setting.active_ranks),) if setting.active_ranks != here.active_ranks else ()
    size = (SetBatchSize(batch_size=setting.batch_size),) if setting.batch_size != here.batch_size else ()
    return (*ranks, *size)
