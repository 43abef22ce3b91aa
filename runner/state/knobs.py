"""Reduces turns of the knobs and the trials of a sweep. Pure, like the whole reducer."""

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent
from rankdeck.runner.protocol.sweep_plan import SweepState
from rankdeck.runner.state.periods import with_new_period
from rankdeck.runner.state.run import Mark, MarkKind, RunState
from rankdeck.runner.state.votes import Held

MAX_MARKS = 100

SweepEvent = (
    protocol.SweepStarted | protocol.TrialStarted | protocol.TrialWarm | protocol.TrialFinished | protocol.SweepSettled
)


def mark(state: RunState, kind: MarkKind, text: str) -> RunState:
    """The state with one more mark on the chart, at the present time."""
    new = Mark(elapsed=state.seconds, kind=kind, text=text)
    return msgspec.structs.replace(state, marks=(*state.marks, new)[-MAX_MARKS:])


def new_period(state: RunState, *, auto: bool, reason: str, trial: bool = False) -> RunState:
    """The state with a new period, of its present batch size and active ranks."""
    began = state.seconds if state.periods else 0.0
    periods = with_new_period(
        state.periods, began, state.batch_size, state.active_ranks, auto=auto, reason=reason, trial=trial
    )
    return msgspec.structs.replace(state, periods=periods)


def batch_size_changed(state: RunState, event: protocol.BatchSizeChanged) -> RunState:
    """Another batch size, or the end of the search for one."""
    same = state.periods and state.batch_size == event.batch_size
    state = msgspec.structs.replace(state, batch_size=event.batch_size, auto=event.auto, refusal=None)
    if same:  # the search settled on the present size: the period goes on, with the reason
        last = msgspec.structs.replace(state.periods[-1], auto=event.auto, reason=event.reason)
        return msgspec.structs.replace(state, periods=(*state.periods[:-1], last))
    first = not state.periods
    state = new_period(state, auto=event.auto, reason=event.reason)
    return state if first else mark(state, "batch size", f"batch size {event.batch_size}")


def sweep_event(state: RunState, event: SweepEvent) -> RunState:
    """A sweep begins, starts or finishes a trial, or settles."""
    sweep = state.sweep
    if isinstance(event, protocol.SweepStarted):
        # The same plan again, not settled yet, is a resumed sweep: what was measured stays.
        same = sweep if sweep is not None and sweep.plan == event.plan and sweep.settled is None else None
        fresh = SweepState(
            plan=event.plan,
            trials=tuple(event.trials),
            records=tuple(record for record in same.records if record.outcome != "failed") if same else (),
            took=same.took if same else {},
            bandwidth_bytes_per_second=event.bandwidth_bytes_per_second,
            bandwidth_source=event.bandwidth_source,
            no_mbu=event.no_mbu,
        )
        return msgspec.structs.replace(state, sweep=fresh)
    if sweep is None:
        return state
    match event:
        case protocol.TrialStarted():
            trial = event.trial
            state = msgspec.structs.replace(
                state,
                sweep=msgspec.structs.replace(sweep, current=trial, since=event.at, measuring=False),
                batch_size=trial.batch_size,
                active_ranks=trial.active_ranks,
                auto=False,
            )
            state = new_period(state, auto=False, reason="", trial=True)
            return mark(state, "trial", f"{trial.active_ranks} x {trial.batch_size}")
        case protocol.TrialWarm():
            return msgspec.structs.replace(state, sweep=msgspec.structs.replace(sweep, measuring=True))
        case protocol.TrialFinished():
            took = sweep.took
            if sweep.current is not None:
                took = {**took, event.record.trial.number: max(0.0, event.at - sweep.since)}
            sweep = msgspec.structs.replace(sweep, records=(*sweep.records, event.record), current=None, took=took)
            return msgspec.structs.replace(state, sweep=sweep)
        case protocol.SweepSettled():
            sweep = msgspec.structs.replace(sweep, settled=event.reason, current=None)
            # What its trials loaded says nothing of the run from here on; the chart goes on showing it.
            loads = tuple(msgspec.structs.replace(load, period=None) for load in state.loads)
            return msgspec.structs.replace(state, sweep=sweep, loads=loads, sampled_in=None, held=Held())


SOURCE = "knobs"
"""The source of these lines in the log, beside the supervisor, the launcher and the ranks."""


def knob_words(event: AnyEvent) -> str | None:
    """`batch size 16: as asked for`; None if the event did not turn a knob."""
    match event:
        case protocol.BatchSizeChanged():
            return f"batch size {event.batch_size}: {event.reason}"
        case protocol.ActiveRanksChanged():
            return f"active ranks {event.active_ranks}"
        case protocol.TurnRefused():
            return f"refused: {event.reason}"
        case protocol.RankCapped():
            return f"rank {event.rank}: at most {event.batch_size} prompts per batch from now on"
        case protocol.Paused():
            return f"paused: {event.reason}"
        case protocol.Resumed():
            return "resumed"
        case protocol.TrialStarted():
            trial = event.trial
            ranks = "1 rank" if trial.active_ranks == 1 else f"{trial.active_ranks} ranks"
            return f"trial {trial.number}: {ranks} at batch size {trial.batch_size}"
        case _:
            return None
