"""The pure reducer: the state of a run after each event.

The supervisor, the dashboard, the plain view, replay and the tests all call `apply(state, event)`. No clock and no I/O:
the time is the `at` of the events.
"""

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent
from rankdeck.runner.scheduling.rounds import EvenRounds
from rankdeck.runner.state import loading_time, timeline_reducer
from rankdeck.runner.state.batches import (
    account_closed,
    batch_finished,
    batch_over,
    batch_started,
    output,
    paused,
    replace_rank,
    resumed,
)
from rankdeck.runner.state.knobs import batch_size_changed, mark, new_period, sweep_event
from rankdeck.runner.state.run import LogEntry, RankState, RunState
from rankdeck.runner.state.ticks import tick
from rankdeck.runner.state.votes import Held

LOG_LINES = 1000


def apply(state: RunState, event: AnyEvent) -> RunState:
    """The state after `event`. Unknown ranks and late events change nothing."""
    timeline = timeline_reducer.after(state.timeline, event, state.now, state.seconds)
    if isinstance(event, protocol.RunTakenUp):
        state = _taken_up(state, event)
    loading = loading_time.after(state.loading, event)
    state = msgspec.structs.replace(state, now=max(state.now, event.at), loading=loading, timeline=timeline)
    match event:
        case protocol.RunStarted():
            return RunState(
                name=event.name,
                directory=event.directory,
                config=event.config,
                prompts=event.prompts,
                active_ranks=event.config.ranks,
                batch_size=event.config.batch_size or 1,
                started_at=event.at,
                now=event.at,
                loading=loading,
                timeline=timeline,
            )
        case protocol.RunTakenUp():
            return state
        case protocol.ModelProgress():
            return msgspec.structs.replace(state, model=event, phase="model")  # the last one, found, has the label
        case protocol.RanksLaunched():
            return _launched(state, event)
        case protocol.RankPhase():
            state = msgspec.structs.replace(state, phase="loading")
            return replace_rank(state, event.rank, phase=event.phase, phase_since=event.at)
        case protocol.RankReady():
            return replace_rank(state, event.rank, phase="ready", phase_since=event.at, ready=event, warm_rows=0)
        case protocol.RanksReady():
            # Idle time counts from the first launch: a relaunch is not work, so it counts as idle.
            ready_at = state.ready_at if state.ready_at is not None else event.at
            # The load while they were loading says nothing about the work to come.
            return msgspec.structs.replace(state, ready_at=ready_at, phase="running", loads=(), held=Held())
        case protocol.BatchStarted():
            return batch_started(state, event)
        case protocol.RowsAdded():
            rank = state.ranks[event.rank] if 0 <= event.rank < len(state.ranks) else None
            return replace_rank(state, event.rank, rows=rank.rows + event.rows) if rank else state
        case protocol.AccountClosed():
            return account_closed(state, event)
        case protocol.Output():
            return output(state, event)
        case protocol.BatchFinished():
            return batch_finished(state, event)
        case protocol.BatchFailed():
            state = batch_over(state, event.rank, event.at)
            if event.kind == "out_of_memory":
                state = mark(state, "memory", f"rank {event.rank} out of memory")
            return state
        case protocol.BatchSizeChanged():
            return batch_size_changed(state, event)
        case protocol.ActiveRanksChanged():
            state = msgspec.structs.replace(state, active_ranks=event.active_ranks, refusal=None)
            return mark(new_period(state, auto=state.auto, reason=""), "active ranks", f"{event.active_ranks} active")
        case protocol.TurnRefused():
            return msgspec.structs.replace(state, refusal=event)
        case protocol.SweepStarted() | protocol.TrialStarted() | protocol.TrialWarm():
            return sweep_event(state, event)
        case protocol.TrialFinished() | protocol.SweepSettled():
            return sweep_event(state, event)
        case protocol.RankCapped():
            return replace_rank(state, event.rank, cap=event.batch_size)
        case protocol.RecordsLost():
            return msgspec.structs.replace(
                state,
                completed=event.completed,
                failed=event.failed,
                prompt_tokens=event.prompt_tokens,
                output_tokens=event.output_tokens,
            )
        case protocol.Paused():
            state = paused(state)
            return mark(msgspec.structs.replace(state, paused=event.reason), "pause", "paused")
        case protocol.Resumed():
            state = resumed(state, event.at)
            return mark(msgspec.structs.replace(state, paused=None, loads=()), "pause", "resumed")
        case protocol.RankLost():
            # What it had in hand is handed out again first, so the plan of rounds no longer holds.
            state = msgspec.structs.replace(batch_over(state, event.rank, event.at), loss=event, rounds=EvenRounds())
            state = replace_rank(state, event.rank, phase="lost", phase_since=event.at, cause=event.cause, silence=None)
            return mark(state, "rank lost", f"rank {event.rank} lost")
        case protocol.RankSilent():
            return replace_rank(state, event.rank, silence=event)
        case protocol.RankHeard():
            return replace_rank(state, event.rank, silence=None)
        case protocol.TelemetryStarted():
            state = msgspec.structs.replace(state, telemetry_reason=event.reason)
            if event.reason is not None:
                state = _logged(state, event.at, "supervisor", f"no GPU figures: {event.reason}")
            return state
        case protocol.Tick():
            return tick(state, event)
        case protocol.LogLine():
            return _logged(state, event.at, event.source, event.text)
        case protocol.GatherChecked():
            return msgspec.structs.replace(state, gather=event)
        case protocol.Stopping():
            if state.paused is not None and state.phase != "stopping":
                state = resumed(state, event.at)  # what is in hand is finished, pause or not
            return msgspec.structs.replace(state, phase="stopping")
        case protocol.RunEnded():
            return _ended(state, event)


def _logged(state: RunState, at: float, source: str, text: str) -> RunState:
    moment = state.timeline.moment(at) if at else None
    entry = LogEntry(source=source, text=text, moment=moment)
    return msgspec.structs.replace(state, log=(*state.log, entry)[-LOG_LINES:])


def _taken_up(state: RunState, event: protocol.RunTakenUp) -> RunState:
    """A resumed run: history and totals stay, clocks and knobs start afresh, counts are those of outputs.jsonl.

    Called before `now` moves to the event: no work was done since the event before it.
    """
    for rank in state.ranks:
        if rank.batch is not None:
            state = batch_over(state, rank.rank, state.now)
    sweep = state.sweep
    if sweep is not None:
        # A sweep that was started within a run is given up; a run that is a sweep goes on with it.
        settled = sweep.settled or ("the run was taken up again" if event.config.sweep != sweep.plan else None)
        sweep = msgspec.structs.replace(sweep, current=None, settled=settled)
    # Outputs that a sweep throws away are in no file: only the state has counted their tokens.
    thrown_away = event.config.sweep is not None and not event.config.sweep.outputs
    state = msgspec.structs.replace(
        state,
        seconds_before=state.seconds,
        config=event.config,
        phase="starting",
        completed=event.completed,
        failed=event.failed,
        prompt_tokens=state.prompt_tokens if thrown_away else event.prompt_tokens,
        output_tokens=state.output_tokens if thrown_away else event.output_tokens,
        batch_size=event.config.batch_size or 1,
        active_ranks=event.config.ranks,
        auto=False,
        rounds=EvenRounds(),
        paused=None,
        loss=None,
        refusal=None,
        ready_at=None,
        first_batch_at=None,
        last_result_at=None,
        window=(),
        rate_now=0.0,
        rank_rates=(),
        loads=(),
        sampled_in=None,
        held=Held(),
        devices=(),
        processes=(),
        cpu_history=(),
        ended=None,
        sweep=sweep,
    )
    return mark(new_period(state, auto=False, reason=""), "taken up", "taken up again")


def _launched(state: RunState, event: protocol.RanksLaunched) -> RunState:
    """New ranks; a rank that was there before keeps its totals.

    Those that were not lost, but ended with the one that was, had their batches in hand until then.
    """
    for rank in state.ranks:
        if rank.batch is not None:
            lost = state.loss is not None and state.loss.at >= rank.batch_started_at
            state = batch_over(state, rank.rank, state.loss.at if lost and state.loss is not None else event.at)
    before = {rank.rank: rank for rank in state.ranks}
    fresh = {
        "phase": "starting",
        "phase_since": event.at,
        "ready": None,
        "batch": None,
        "rows": 0,
        "batch_rows": 0,
        "step": 0,
        "in_flight_tokens": 0,
        "rows_at_once": None,
        "cache_used": None,
        "prefix_hits": None,
        "cause": None,
        "silence": None,
    }
    ranks = tuple(
        msgspec.structs.replace(before.get(number, RankState(rank=number)), **fresh)
        for number in range(event.world_size)
    )
    return msgspec.structs.replace(
        state,
        attempt=event.attempt,
        restarts_left=event.restarts_left,
        ranks=ranks,
        phase="launching",
        window=(),
        rate_now=0.0,
        rank_rates=(),
        loads=(),
        sampled_in=None,
        held=Held(),
    )


def _ended(state: RunState, event: protocol.RunEnded) -> RunState:
    # A rank that still has a batch in hand was stopped in the middle of it: the batch is not counted.
    for rank in state.ranks:
        if rank.batch is not None:
            state = batch_over(state, rank.rank, event.at)
    ranks = tuple(
        rank if rank.phase == "lost" else msgspec.structs.replace(rank, phase="left", phase_since=event.at)
        for rank in state.ranks
    )
    sweep = msgspec.structs.replace(state.sweep, current=None) if state.sweep is not None else None
    return msgspec.structs.replace(
        state, ended=event, phase="ended", rate_now=0.0, rank_rates=(), ranks=ranks, sweep=sweep
    )
