"""What each event changes in a state in which everything is set, and that it changes nothing else."""

from collections.abc import Mapping

import msgspec
import pytest
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent, DeviceSample, ProcessSample, RankSilent, StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState, Trial, TrialRecord
from rankdeck.runner.scheduling.rounds import EvenRounds
from rankdeck.runner.state import DeviceState, HistoryPoint, LogEntry, Mark, RankState, RunState, StepMark, apply
from rankdeck.runner.state.costs import CostPoint
from rankdeck.runner.state.knobs import MAX_MARKS, knob_words, mark
from rankdeck.runner.state.load import Load
from rankdeck.runner.state.periods import MAX_PERIODS, KnobPeriod, share_of_batch, with_new_period
from rankdeck.runner.state.rank_gpus import bare_uuid, match_rank_to_gpu, match_rank_to_gpus
from rankdeck.runner.state.run import Total
from rankdeck.runner.state.summary import summarise
from rankdeck.runner.state.ticks import BUSY_HISTORY, RATE_WINDOW_SECONDS
from rankdeck.runner.state.timeline import Timeline
from tests.runner.state.test_state import finished, output, play, ready

CONFIG = RunConfig(prompts="p.txt", ranks=2, batch_size=4, max_new_tokens=10)
PLAN = SweepPlan(batch_sizes=[2, 4], ranks=[1, 2])
TRIALS = tuple(
    Trial(number=number, repeat=1, active_ranks=ranks, batch_size=size)
    for number, (ranks, size) in enumerate([(1, 2), (2, 2), (1, 4), (2, 4)], 1)
)
MEASURED = TrialRecord(trial=TRIALS[0], outcome="measured")
SILENT = RankSilent(rank=0, stage="at work", seconds=20)


def busy_rank(number: int, **changes: object) -> RankState:
    """A rank with a batch of four in hand since 95 s, of which one is done, and with other figures than any other."""
    values = {
        "rank": number, "phase": "decoding", "phase_since": 96.0, "ready": ready(number), "batch": 7 + number,
        "rows": 3, "step": 5, "first_step": StepMark(96.0, 1), "last_step": StepMark(99.0, 5, 15), "batch_rows": 4,
        "in_flight_tokens": 12 + number, "batch_started_at": 95.0, "batch_period": 3, "rows_at_once": 2,
        "cache_used": 0.5, "account_started_at": 95.0, "accounts": 0, "cap": 16, "warm_rows": 4, "batches": 6,
        "prompts": 21, "prompt_tokens": 60, "output_tokens": 200, "slots": 300, "padded_slots": 30,
        "busy_seconds": 40.0, "peak_memory_bytes": 500, "reserved_memory_bytes": 700, "cause": "old cause",
        "silence": SILENT,
    }  # fmt: skip
    return RankState(**{**values, **changes})  # type: ignore[arg-type]


def full(**changes: object) -> RunState:
    """A run of two ranks, ready at 10 s, working since 20 s, at 100 s; nothing in it has its default."""
    values = {
        "name": "n", "directory": "/d", "config": CONFIG, "prompts": 60, "phase": "running", "started_at": 1.0,
        "now": 100.0, "model": protocol.ModelProgress(phase="found", label="m"), "attempt": 1, "restarts_left": 2,
        "loss": protocol.RankLost(rank=1, cause="c"),
        "refusal": protocol.TurnRefused(at=99.0, reason="why"), "batch_size": 4, "auto": True, "active_ranks": 2,
        "paused": "asked for", "rounds": EvenRounds(4, 2, 6), "costs": (CostPoint(active_ranks=1, rows=9),),
        "periods": (KnobPeriod(batch_size=4, active_ranks=2, number=3, began=2.0, auto=True, reason="r"),),
        "lengths": (1, *[0] * 63), "measured_lengths": (0,) * 64,
        "marks": (Mark(elapsed=1.0, kind="pause", text="x"),), "seconds_before": 5.0,
        "sweep": SweepState(plan=PLAN, trials=TRIALS, records=(MEASURED,), current=TRIALS[1], since=90.0,
                            took={1: 8.0}, measuring=True, bandwidth_bytes_per_second=9.0, bandwidth_source="s"),
        "slots": 600, "padded_slots": 60, "ranks": (busy_rank(0), busy_rank(1)), "ready_at": 10.0,
        "first_batch_at": 20.0, "last_result_at": 99.0, "completed": 20, "failed": 4, "unusable_logits": 1,
        "output_tokens": 400, "prompt_tokens": 120, "rate_now": 8.0, "rate_peak": 9.0,
        "window": (Total(97.0, (200, 205)),),
        "rank_rates": (3.0, 5.0), "loads": (Load(99.0, at_work=2, active=2, busy=90.0),), "sampled_at": 99.0,
        "history": (HistoryPoint(84.5, 7.0),), "samples": 3, "telemetry_reason": "none here",
        "devices": (DeviceState(sample=DeviceSample(index=0, uuid="GPU-a", name="A"), busy_history=(1.0,)),),
        "cpu_history": ((50.0,), (60.0,)), "log": (LogEntry(source="a", text="b"),),
        "processes": tuple(ProcessSample(rank=rank, cpu_percent=1.0, rss_bytes=2) for rank in (0, 1)),
        "timeline": Timeline(zero_at=1.0),
    }  # fmt: skip
    return RunState(**{**values, **changes})  # type: ignore[arg-type]


def changes(before: msgspec.Struct, after: msgspec.Struct) -> dict[str, object]:
    """The fields that are not as they were; of a state without its clocks and its timeline, which have tests of their
    own."""
    names = [name for name in before.__struct_fields__ if name not in ("now", "timeline", "loading")]
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


def rank_changes(before: RunState, after: RunState, number: int) -> dict[str, object]:
    assert all(one == other for one, other in zip(before.ranks, after.ranks, strict=True) if one.rank != number)
    return changes(before.ranks[number], after.ranks[number])


OVER: Mapping[str, object] = {
    "phase": "waiting", "phase_since": 101.0, "batch": None, "rows": 0, "step": 0, "first_step": None,
    "last_step": None, "in_flight_tokens": 0, "rows_at_once": None, "cache_used": None, "busy_seconds": 46.0,
    "batch_rows": 0,
}  # fmt: skip
"""What is left of a batch in hand since 95 s that is over at 101 s."""


def test_a_started_run_knows_nothing_of_an_earlier_one() -> None:
    asked = protocol.RunStarted(at=7.0, name="x", directory="/e", config=CONFIG, prompts=9, asked_at=3.0)
    state = apply(full(), asked)
    assert (state.timeline.zero_at, state.loading.began) == (7.0, {"starting": 3.0, "model": 7.0})
    bare = replace(state, loading=RunState().loading, timeline=Timeline())
    assert bare == RunState(
        name="x", directory="/e", config=CONFIG, prompts=9, active_ranks=2, batch_size=4, started_at=7.0, now=7.0
    )
    searched = apply(RunState(), replace(asked, config=replace(CONFIG, batch_size=None)))
    assert searched.batch_size == 1, "until it is known"


def test_time_never_goes_back() -> None:
    assert apply(full(), protocol.RanksReady(at=50.0)).now == 100.0
    assert apply(full(), protocol.RanksReady(at=101.5)).now == 101.5


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        (protocol.ModelProgress(at=101, phase="fetching"),
         {"model": protocol.ModelProgress(at=101, phase="fetching"), "phase": "model"}),
        (protocol.RanksReady(at=101), {"loads": ()}),
        (protocol.ActiveRanksChanged(at=101, active_ranks=1),
         {"refusal": None, "active_ranks": 1, "periods": 1,
          "marks": Mark(elapsed=86, kind="active ranks", text="1 active")}),
        (protocol.TurnRefused(at=101, reason="no prompt is left"),
         {"refusal": protocol.TurnRefused(at=101, reason="no prompt is left")}),
        (protocol.BatchSizeChanged(at=101, batch_size=8, auto=False, reason="as asked for"),
         {"refusal": None, "batch_size": 8, "auto": False, "periods": 1,
          "marks": Mark(elapsed=86, kind="batch size", text="batch size 8")}),
        (protocol.Paused(at=101, reason="memory", asked=False),
         {"paused": "memory", "marks": Mark(elapsed=86, kind="pause", text="paused")}),
        (protocol.Resumed(at=101),
         {"paused": None, "loads": (), "marks": Mark(elapsed=86, kind="pause", text="resumed")}),
        (protocol.TelemetryStarted(at=101, gpus=2), {"telemetry_reason": None}),
        (protocol.TelemetryStarted(at=101, gpus=0, reason="no driver"),
         {"telemetry_reason": "no driver",
          "log": LogEntry(source="supervisor", text="no GPU figures: no driver", moment=100.0)}),
        (protocol.LogLine(at=101, source="rank 1", text="t"),
         {"log": LogEntry(source="rank 1", text="t", moment=100.0)}),
        (protocol.LogLine(source="rank 1", text="t"), {"log": LogEntry(source="rank 1", text="t")}),
        (protocol.GatherChecked(at=101, records=3, differing=[1]),
         {"gather": protocol.GatherChecked(at=101, records=3, differing=[1])}),
        (protocol.Stopping(at=101, now=False), {"phase": "stopping"}),
        (protocol.RankLost(at=101, rank=9, cause="x"),
         {"loss": protocol.RankLost(at=101, rank=9, cause="x"), "rounds": EvenRounds(),
          "marks": Mark(elapsed=86, kind="rank lost", text="rank 9 lost")}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else "",
)  # fmt: skip
def test_an_event_of_the_run_changes_this_and_nothing_else(event: AnyEvent, changed: dict[str, object]) -> None:
    before = full()
    found = changes(before, apply(before, event))
    for name in ("marks", "log"):
        if name in changed:
            *earlier, newest = found[name]  # type: ignore[misc]
            assert (tuple(earlier), newest) == (getattr(before, name), changed[name])
            found[name] = changed[name]
    if "periods" in changed:
        old, new = found["periods"]  # type: ignore[misc]
        assert old == before.periods[0]
        reason = event.reason if isinstance(event, protocol.BatchSizeChanged) else ""
        size, ranks = found.get("batch_size", 4), found.get("active_ranks", 2)
        auto = before.auto if isinstance(event, protocol.ActiveRanksChanged) else False
        assert new == KnobPeriod(
            batch_size=size, active_ranks=ranks, number=4, began=86.0, auto=auto, reason=reason  # type: ignore[arg-type]
        )  # fmt: skip
        found["periods"] = 1
    assert found == changed


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        (protocol.RankPhase(at=101, rank=1, phase="joining"), {"phase": "joining", "phase_since": 101}),
        (ready(1, at=101.0, device="cuda:1"),
         {"phase": "ready", "phase_since": 101, "ready": ready(1, at=101.0, device="cuda:1"), "warm_rows": 0}),
        (protocol.RowsAdded(at=101, rank=1, batch=8, rows=5), {"rows": 8}),
        (protocol.RankCapped(at=101, rank=1, batch_size=2), {"cap": 2}),
        (protocol.RankSilent(at=101, rank=1, stage="waiting", seconds=3),
         {"silence": protocol.RankSilent(at=101, rank=1, stage="waiting", seconds=3)}),
        (protocol.RankHeard(at=101, rank=1), {"silence": None}),
        (protocol.BatchFailed(at=101, rank=1, batch=8, kind="error", error="e"), OVER),
        (protocol.BatchFailed(at=101, rank=1, batch=8, kind="out_of_memory", error="e"), OVER),
        (protocol.RankLost(at=101, rank=1, cause="killed"),
         {**OVER, "phase": "lost", "cause": "killed", "silence": None}),
        (finished(1, 8, 101.0, rows=4),
         {**OVER, "batches": 7, "slots": 350, "padded_slots": 40, "peak_memory_bytes": 1008}),
        (output(0, 5, rank=1, at=101.0),
         {"prompts": 22, "prompt_tokens": 63, "output_tokens": 205, "rows": 2, "in_flight_tokens": 8}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else "",
)  # fmt: skip
def test_an_event_of_a_rank_changes_this_of_it_and_nothing_of_others(
    event: AnyEvent, changed: dict[str, object]
) -> None:
    before = full()
    assert rank_changes(before, apply(before, event), 1) == changed
    nobody = replace(event, rank=2) if not isinstance(event, protocol.Output) else None
    if nobody is not None:
        for number in (-1, 2):
            assert apply(before, replace(event, rank=number)).ranks == before.ranks  # type: ignore[call-arg]


def test_a_lost_rank_in_hand_of_nothing_was_busy_with_nothing() -> None:
    before = full(ranks=(busy_rank(0), busy_rank(1, batch=None)))
    after = apply(before, protocol.RankLost(at=101, rank=1, cause="killed"))
    assert after.ranks[1].busy_seconds == 40.0


def test_out_of_memory_is_marked_and_another_error_is_not() -> None:
    failed = protocol.BatchFailed(at=101, rank=1, batch=8, kind="out_of_memory", error="e")
    before = full()
    after = apply(before, failed)
    assert after.marks == (*before.marks, Mark(elapsed=86.0, kind="memory", text="rank 1 out of memory"))
    assert apply(before, replace(failed, kind="error")).marks == before.marks


def test_the_first_phase_of_a_rank_is_loading_and_the_first_readiness_counts() -> None:
    assert apply(full(), protocol.RankPhase(at=101, rank=0, phase="importing")).phase == "loading"
    waiting = full(phase="loading", ready_at=None)
    assert changes(waiting, apply(waiting, protocol.RanksReady(at=101))) == {
        "phase": "running", "ready_at": 101, "loads": (),
    }  # fmt: skip


def test_a_launch_begins_the_ranks_afresh_and_keeps_their_totals() -> None:
    before = full()
    launched = protocol.RanksLaunched(at=101, attempt=2, world_size=3, restarts_left=1)
    after = apply(before, launched)
    assert {**changes(before, after), "ranks": None} == {
        "attempt": 2, "restarts_left": 1, "ranks": None, "phase": "launching", "window": (), "rate_now": 0.0,
        "rank_rates": (), "loads": (),
    }  # fmt: skip
    kept = {"rank", "cap", "warm_rows", "batches", "prompts", "prompt_tokens", "output_tokens", "slots", "padded_slots",
            "busy_seconds", "peak_memory_bytes", "reserved_memory_bytes", "batch_started_at", "batch_period",
            "account_started_at"}  # fmt: skip
    expected = {name: getattr(busy_rank(1), name) for name in kept} | {"busy_seconds": 46.0}
    bare = RankState(phase_since=101.0, **expected)  # type: ignore[arg-type]
    assert replace(after.ranks[1], first_step=None, last_step=None) == bare
    assert after.ranks[2] == RankState(rank=2, phase_since=101.0)
    assert len(apply(before, replace(launched, world_size=1)).ranks) == 1


def test_a_batch_begins_at_nothing_and_is_part_of_the_plan_of_rounds() -> None:
    before = full()
    started = protocol.BatchStarted(at=101, rank=0, batch=11, rows=4)
    after = apply(before, started)
    assert rank_changes(before, after, 0) == {
        "phase": "prefill", "phase_since": 101, "batch": 11, "rows": 4, "step": 0, "first_step": None,
        "last_step": None, "in_flight_tokens": 0, "batch_started_at": 101, "account_started_at": 101, "begun_in": 3,
    }  # fmt: skip
    assert apply(before, replace(started, rows=6)).ranks[0].batch_rows == 6
    assert set(changes(before, after)) == {"rounds", "ranks"}
    assert after.rounds == EvenRounds(4, 2, 5)
    trial = apply(before, replace(started, kept=False))
    assert (trial.rounds, trial.ranks[0].batch_kept) == (before.rounds, False)
    warming = apply(before, replace(started, warm_up=True)).ranks[0]
    assert (warming.batch_period, warming.begun_in) == (None, None)


def test_a_batch_is_cut_from_what_no_rank_has_in_hand() -> None:
    before = full(rounds=EvenRounds(), ranks=(busy_rank(0, rows=0, batch=None), busy_rank(1, rows=12)))
    # 60 prompts, 24 done and 12 in the other's hand: 24 are 3 rounds of 2 x 4, of which this is the first batch.
    assert apply(before, protocol.BatchStarted(at=101, rank=0, batch=11, rows=4)).rounds == EvenRounds(4, 2, 5)
    few = replace(before, prompts=37)  # 1 is left, so its own 4 rows count: one round
    assert apply(few, protocol.BatchStarted(at=101, rank=0, batch=11, rows=4)).rounds == EvenRounds(4, 2, 1)


def test_the_first_batch_of_all_begins_the_clock_and_the_window() -> None:
    before = full(first_batch_at=None, window=(), ranks=(busy_rank(0, in_flight_tokens=0), busy_rank(1)))
    after = apply(before, protocol.BatchStarted(at=101, rank=0, batch=11, rows=4))
    assert (after.first_batch_at, after.window) == (101, (Total(101, (200, 413 - 200)),))
    again = apply(after, protocol.BatchStarted(at=102, rank=1, batch=12, rows=4))
    assert (again.first_batch_at, again.window) == (101, after.window)


def test_an_answer_is_counted_once_everywhere() -> None:
    before = full()
    after = apply(before, output(0, 10, rank=1, at=101.0))
    assert {**changes(before, after), "ranks": 0, "lengths": 0} == {
        "completed": 21, "output_tokens": 410, "prompt_tokens": 123, "last_result_at": 101, "ranks": 0, "lengths": 0
    }  # fmt: skip
    assert (after.lengths[0], after.lengths[63]) == (1, 1)
    more = apply(full(), output(0, 50, rank=0, at=101.0))
    assert more.ranks[0].in_flight_tokens == 0, "never less than nothing"
    assert apply(full(ranks=(busy_rank(0, rows=0),)), output(0, 5, rank=0)).ranks[0].rows == 0


def test_an_error_is_no_answer_and_logits_that_are_no_numbers_are_counted() -> None:
    before = full()
    after = apply(before, output(0, 0, rank=1, at=101.0, error="too long"))
    assert (after.completed, after.failed, after.unusable_logits, after.lengths) == (20, 5, 1, before.lengths)
    unusable = apply(before, output(0, 0, at=101.0, error=f"x: {protocol.UNUSABLE_LOGITS}NaN"))
    assert (unusable.failed, unusable.unusable_logits) == (5, 2)


@pytest.mark.parametrize("rank", [None, -1, 2])
def test_an_answer_of_a_rank_that_is_not_known_counts_for_the_run_alone(rank: int | None) -> None:
    record = replace(output(0, 10).record, rank=rank)
    before = full()
    after = apply(before, protocol.Output(at=101.0, record=record))
    assert (after.completed, after.output_tokens, after.ranks) == (21, 410, before.ranks)


SLOTS = {"slots": 50, "padded_slots": 10}


def test_a_finished_batch_counts_for_its_period_and_the_costs() -> None:
    before = full(sweep=None)
    after = apply(before, finished(1, 8, 101.0, rows=4))
    assert set(changes(before, after)) == {
        "ranks", "periods", "costs", "measured_lengths", "slots", "padded_slots", "last_result_at",
    }  # fmt: skip
    assert after.measured_lengths == before.lengths, "as they are now that a batch is over"
    assert (after.slots, after.padded_slots, after.last_result_at) == (650, 70, 101)
    assert after.periods[-1].shares == {1: share_of_batch(20, 6.0, **SLOTS, rows=4)}
    assert after.costs[1:] == (
        CostPoint(active_ranks=2, rows=4, batches=1, steps=10, row_steps=40, prompt_slots=10, prompt_tokens=12,
                  output_tokens=20, prefill_seconds=0.1, decode_seconds=0.9, seconds=6.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rank", "batch", "rows"),
    [({"batch_period": 2}, 8, 4), ({"batch_period": None}, 8, 4), ({}, 9, 4), ({}, 8, 0)],
    ids=["of another setting", "of none", "another batch", "nothing in it"],
)
def test_a_batch_that_is_not_of_its_period_counts_for_totals_alone(rank: dict[str, object], batch: int, rows: int):
    before = full(ranks=(busy_rank(0), busy_rank(1, **rank)))
    after = apply(before, finished(1, batch, 101.0, rows=rows))
    assert (after.periods, after.costs) == (before.periods, before.costs)
    assert (after.ranks[1].batches, after.slots, after.ranks[1].busy_seconds) == (7, 650, 46.0)
    assert after.ranks[1].warm_rows == 4, "the largest so far"


def test_the_tokens_of_a_trial_whose_answers_are_thrown_away_count_all_the_same() -> None:
    before = full(ranks=(busy_rank(0), busy_rank(1, batch_kept=False)))
    after = apply(before, finished(1, 8, 101.0, rows=4))
    assert (after.output_tokens, after.prompt_tokens) == (420, 132)
    assert (after.ranks[1].output_tokens, after.ranks[1].prompt_tokens) == (220, 72)
    assert before.sweep is not None
    for kept in (
        full(),
        replace(before, sweep=None),
        replace(before, sweep=replace(before.sweep, plan=replace(PLAN, outputs=True))),
    ):
        assert apply(kept, finished(1, 8, 101.0, rows=4)).output_tokens == 400, "its outputs are counted as they come"


def continuous(**changed: object) -> RunState:
    rank = busy_rank(1, ready=ready(1, engine="continuous"), **changed)
    return full(sweep=None, ranks=(busy_rank(0), rank))


def test_an_account_counts_for_its_period_and_the_batch_goes_on() -> None:
    before = continuous()
    result = finished(1, 8, 101.0, rows=6).result
    after = apply(before, protocol.AccountClosed(at=101.0, rank=1, batch=8, result=result))
    assert rank_changes(before, after, 1) == {
        "account_started_at": 101, "accounts": 1, "slots": 350, "padded_slots": 40, "peak_memory_bytes": 1008,
        "warm_rows": 6, "begun_in": 3,
    }  # fmt: skip
    assert after.periods[-1].shares == {1: share_of_batch(20, 6.0, **SLOTS)}
    assert set(changes(before, after)) == {"ranks", "periods", "slots", "padded_slots"}, "no cost: rows come and go"
    second = apply(after, protocol.AccountClosed(at=101.5, rank=1, batch=8, result=result))
    assert second.periods[-1].shares == {1: share_of_batch(20, 6.0, **SLOTS).plus(share_of_batch(20, 0.5, **SLOTS))}
    last = apply(second, protocol.BatchFinished(at=109.0, rank=1, batch=8, result=result))
    assert last.periods == second.periods, "its last account has ever fewer rows"
    assert last.ranks[1].busy_seconds == 54.0
    for number in (-1, 2):
        assert (
            apply(before, protocol.AccountClosed(at=101.0, rank=number, batch=8, result=result)).ranks == before.ranks
        )


def test_accounts_of_a_continuous_rank_are_costs_in_a_trial_and_where_nothing_is_kept() -> None:
    result = finished(1, 8, 101.0, rows=6).result
    closed = protocol.AccountClosed(at=101.0, rank=1, batch=8, result=result)
    trial = continuous()
    trial = replace(trial, periods=(replace(trial.periods[0], trial=True),))
    for before in (trial, continuous(batch_kept=False)):
        assert len(apply(before, closed).costs) == 2


def test_a_pause_ends_the_account_that_spans_it_and_no_closed_batch() -> None:
    for event in (protocol.Paused(at=101, reason="r", asked=True), protocol.Resumed(at=101)):
        after = apply(continuous(), event)
        assert [rank.batch_period for rank in after.ranks] == [3, None]


def test_a_rank_whose_rows_stood_still_begins_its_next_account_as_the_run_goes_on() -> None:
    before = continuous()
    ranks = tuple(
        replace(rank, ready=replace(rank.ready, engine="vllm")) if rank.ready is not None else rank
        for rank in before.ranks
    )
    before = replace(before, ranks=ranks)
    assert before.stepwise
    still = apply(before, protocol.Paused(at=101, reason="r", asked=True))
    assert {rank.batch_period for rank in still.ranks} == {None}
    after = apply(still, protocol.Resumed(at=150))
    number = after.periods[-1].number
    assert {(rank.batch_period, rank.begun_in, rank.account_started_at) for rank in after.ranks} == {
        (number, after.period_number, 150)
    }
    idle = replace(still, ranks=(replace(ranks[0], batch=None), ranks[1]))
    assert apply(idle, protocol.Resumed(at=150)).ranks[0].account_started_at == ranks[0].account_started_at


def test_ranks_that_ended_with_the_one_that_was_lost_were_busy_until_then() -> None:
    lost = apply(full(sweep=None, loss=None), protocol.RankLost(at=104.0, rank=1, cause="gone"))
    before = lost.ranks[0]
    assert before.batch is not None
    after = apply(lost, protocol.RanksLaunched(at=110.0, attempt=2, world_size=2))
    assert after.ranks[0].busy_seconds == before.busy_seconds + 104.0 - before.batch_started_at
    assert after.ranks[1].busy_seconds == lost.ranks[1].busy_seconds


def stepwise(**changed: object) -> RunState:
    ranks = (busy_rank(0, ready=ready(0, engine="vllm")), busy_rank(1, ready=ready(1, engine="vllm"), **changed))
    return full(sweep=None, ranks=ranks)


def test_an_account_that_spans_a_pause_too_short_to_be_noticed_counts_for_no_period() -> None:
    """It began before the pause: by the moment of the resume its tokens would be those of a few milliseconds."""
    still = apply(stepwise(), protocol.Paused(at=101.0, reason="r", asked=True))
    after = apply(still, protocol.Resumed(at=101.2))
    result = replace(finished(1, 8, 101.4, rows=6).result, seconds=9.0)
    counted = apply(after, protocol.AccountClosed(at=101.4, rank=1, batch=8, result=result))
    assert counted.periods[-1].shares == after.periods[-1].shares
    later = protocol.AccountClosed(at=103.4, rank=1, batch=8, result=replace(result, seconds=2.0))
    assert 1 in apply(counted, later).periods[-1].shares, "the next one began after it"


def test_an_account_that_is_heard_after_a_resume_took_as_long_as_its_rank_says() -> None:
    still = apply(stepwise(), protocol.Paused(at=101.0, reason="r", asked=True))
    after = apply(still, protocol.Resumed(at=101.3))
    result = replace(finished(1, 8, 101.31, rows=6).result, output_tokens=40, seconds=0.4)
    counted = apply(after, protocol.AccountClosed(at=101.31, rank=1, batch=8, result=result))
    assert counted.periods[-1].shares[1].seconds == 0.4, "not a hundredth of a second"


def test_a_batch_that_stood_still_and_ended_in_one_account_took_no_longer_than_it_was_generated() -> None:
    before = stepwise(accounts=0, batch_started_at=95.0)
    still = apply(before, protocol.Paused(at=95.0, reason="r", asked=True))
    after = apply(still, protocol.Resumed(at=695.0))
    ended = replace(finished(1, 8, 700.0, rows=6), result=replace(finished(1, 8, 700.0, rows=6).result, seconds=5.0))
    assert apply(after, ended).periods[-1].shares[1].seconds == 5.0


def test_stopping_a_paused_run_lets_rows_go_on_and_their_next_account_begins_then() -> None:
    still = apply(stepwise(), protocol.Paused(at=101.0, reason="r", asked=True))
    stopping = apply(still, protocol.Stopping(at=700.0, now=False))
    assert {rank.account_started_at for rank in stopping.ranks} == {700.0}
    again = apply(stopping, protocol.Stopping(at=800.0, now=True))
    assert {rank.account_started_at for rank in again.ranks} == {700.0}, "asked to stop at once"


def test_ranks_of_a_run_that_is_taken_up_were_busy_until_it_was_left() -> None:
    before = full(sweep=None, now=104.0)
    taken = protocol.RunTakenUp(
        at=100_000.0, config=before.config, completed=0, failed=0, prompt_tokens=0, output_tokens=0
    )
    after = apply(before, taken)
    assert {rank.batch for rank in after.ranks} == {None}
    for old, new in zip(before.ranks, after.ranks, strict=True):
        assert new.busy_seconds == old.busy_seconds + 104.0 - old.batch_started_at


def test_a_closed_batch_of_a_sweep_goes_on_through_a_pause_and_stays_what_it_was() -> None:
    before = replace(stepwise(batch_period=None), sweep=full().sweep)
    assert before.sweeping
    after = apply(apply(before, protocol.Paused(at=101, reason="r", asked=True)), protocol.Resumed(at=102))
    assert [rank.batch_period for rank in after.ranks] == [None, None]


def test_padding_that_the_engine_does_not_tell_is_not_counted_as_none() -> None:
    before = full(sweep=None)
    event = finished(0, 7, 101.0, rows=6)
    unknown = replace(event, result=replace(event.result, padded_slots=None))
    after = apply(before, unknown)
    assert (after.slots, after.padded_slots) == (before.slots, before.padded_slots)
    assert after.ranks[0].padding_waste == before.ranks[0].padding_waste
    assert after.timeline.lanes == () or all(
        span.work is None or span.work.slots != event.result.slots
        for lane in after.timeline.lanes
        for span in lane.spans
    )


# --- ticks ------------------------------------------------------------------------------------------


def flight(step: int, rank: int = 1, batch: int = 8) -> StepsInFlight:
    return StepsInFlight(rank=rank, batch=batch, step=step, output_tokens=20, rows=3, cache_used=0.25)


def test_a_tick_moves_the_batch_it_names() -> None:
    before = full(ranks=(busy_rank(0), busy_rank(1, phase="prefill", first_step=None, last_step=None)))
    after = apply(before, protocol.Tick(at=101, steps=[flight(6)]))
    assert rank_changes(before, after, 1) == {
        "phase": "decoding", "step": 6, "first_step": StepMark(101, 6), "last_step": StepMark(101, 6),
        "in_flight_tokens": 20, "rows_at_once": 3, "cache_used": 0.25,
    }  # fmt: skip
    again = apply(after, protocol.Tick(at=102, steps=[flight(8)]))
    assert (again.ranks[1].first_step, again.ranks[1].last_step) == (StepMark(101, 6), StepMark(102, 8, 6))
    same = apply(again, protocol.Tick(at=103, steps=[flight(8)]))
    assert same.ranks[1].last_step == StepMark(102, 8, 6), "a step keeps its time"


@pytest.mark.parametrize("steps", [flight(0), flight(6, batch=9), flight(6, rank=2), flight(6, rank=-1)])
def test_steps_of_no_batch_in_hand_change_no_rank(steps: StepsInFlight) -> None:
    before = full()
    assert apply(before, protocol.Tick(at=101, steps=[steps])).ranks == before.ranks


def test_a_sample_is_counted_once_and_histories_follow_their_device_and_rank() -> None:
    devices = [DeviceSample(index=index, uuid=uuid, name="A", busy_percent=busy)
               for index, (uuid, busy) in enumerate([("GPU-b", 80.0), ("GPU-a", 90.0)])]  # fmt: skip
    processes = [ProcessSample(rank=rank, cpu_percent=70.0 + rank, rss_bytes=5) for rank in (1, 0, 2)]
    before = full(ranks=(busy_rank(0, ready=ready(0, device_uuid="a")), busy_rank(1, ready=None)))
    after = apply(before, protocol.Tick(at=101, devices=devices, processes=processes))
    assert after.samples == 4
    assert [(one.sample, one.busy_history, one.ranks) for one in after.devices] == [
        (devices[0], (80.0,), ()),
        (devices[1], (1.0, 90.0), (0,)),
    ]
    assert (after.processes, after.cpu_history) == (tuple(processes), ((60.0, 71.0), (50.0, 70.0), (72.0,)))
    for one in (protocol.Tick(at=101, devices=devices), protocol.Tick(at=101, processes=processes)):
        assert apply(before, one).samples == 4
    none = apply(before, protocol.Tick(at=101))
    assert (none.samples, none.devices, none.processes) == (3, before.devices, before.processes)


def test_a_history_of_samples_has_one_minute() -> None:
    state = full(cpu_history=(), processes=(), devices=())
    for second in range(BUSY_HISTORY + 5):
        state = apply(
            state,
            protocol.Tick(
                at=101 + second,
                devices=[DeviceSample(index=0, uuid="u", name="A", busy_percent=float(second))],
                processes=[ProcessSample(rank=0, cpu_percent=float(second), rss_bytes=1)],
            ),
        )
    expected = tuple(float(second) for second in range(5, 65))
    assert (state.devices[0].busy_history, state.cpu_history) == (expected, (expected,))


def test_throughput_is_measured_from_the_last_point_before_the_window() -> None:
    window = (Total(90.0, (60, 40)), Total(95.5, (100, 100)), Total(96.0, (115, 110)), Total(98.0, (150, 150)))
    ranks = busy_rank(0, output_tokens=190, in_flight_tokens=0), busy_rank(1, output_tokens=200, in_flight_tokens=10)
    before = full(window=window, ranks=ranks, rate_peak=0.0, loads=())
    after = apply(before, protocol.Tick(at=101.0))
    # 96 s is exactly a window ago, so it is the one to measure from: 175 tokens in 5 s.
    assert RATE_WINDOW_SECONDS == 5.0
    assert after.window == (*window[2:], Total(101.0, (190, 210)))
    assert (after.rank_rates, after.rate_now, after.rate_peak) == ((15.0, 20.0), 35.0, 35.0)
    assert after.history == (HistoryPoint(84.5, 7.0), HistoryPoint(86.0, 35.0))
    soon = apply(before, protocol.Tick(at=100.4))
    assert len(soon.history) == 1, "not yet a step of the history later"
    due = apply(before, protocol.Tick(at=100.5))
    assert len(due.history) == 2


def test_throughput_never_falls_below_nothing_and_stands_still_without_work() -> None:
    lost = apply(full(window=(Total(97.0, (900, 201)),)), protocol.Tick(at=101.0))
    assert (lost.rank_rates, lost.rate_now) == ((0.0, 3.0), 3.0), "what one lost is not taken from the other"
    none = full(window=())
    assert changes(none, apply(none, protocol.Tick(at=101.0))) == {}
    ended = full(ended=protocol.RunEnded(at=100, status="stopped", exit_status=0, summary=summarise(full())))
    assert changes(ended, apply(ended, protocol.Tick(at=101.0))) == {}


# --- the end, and another supervisor ------------------------------------------------------------------


def test_an_ended_run_has_no_batch_and_no_trial_and_its_lost_ranks_stay_lost() -> None:
    before = full(ranks=(busy_rank(0), busy_rank(1, batch=None, phase="lost", phase_since=50.0)))
    ended = protocol.RunEnded(at=101, status="failed", exit_status=1, summary=summarise(before), cause="c")
    after = apply(before, ended)
    assert set(changes(before, after)) == {"ended", "phase", "rate_now", "rank_rates", "ranks", "sweep"}
    assert (after.ended, after.phase, after.rate_now) == (ended, "ended", 0.0)
    assert rank_changes(before, replace(after, ranks=(after.ranks[0], before.ranks[1])), 0) == {**OVER, "phase": "left"}
    assert (after.ranks[1].phase, after.ranks[1].phase_since) == ("lost", 50.0)
    assert after.sweep == replace(before.sweep, current=None)  # type: ignore[type-var]
    assert apply(full(sweep=None), ended).sweep is None


def taken_up(config: RunConfig = CONFIG) -> protocol.RunTakenUp:
    return protocol.RunTakenUp(at=900, config=config, completed=18, failed=3, prompt_tokens=77, output_tokens=333)


def test_a_run_that_is_taken_up_keeps_its_history_and_starts_its_clocks_afresh() -> None:
    config = replace(CONFIG, batch_size=None, ranks=1)
    ended = protocol.RunEnded(at=100, status="stopped", exit_status=0, summary=summarise(full()))
    before = full(ended=ended)
    after = apply(before, taken_up(config))
    assert {**changes(before, after), "periods": 0, "marks": 0, "sweep": 0, "ranks": 0} == {
        "seconds_before": 84.0, "config": config, "phase": "starting", "completed": 18, "failed": 3,
        "prompt_tokens": 77, "output_tokens": 333, "batch_size": 1, "active_ranks": 1, "auto": False,
        "rounds": EvenRounds(), "paused": None, "loss": None, "refusal": None, "ready_at": None, "first_batch_at": None,
        "last_result_at": None, "window": (), "rate_now": 0.0, "rank_rates": (), "loads": (),
        "devices": (), "processes": (), "cpu_history": (), "ended": None,
        "periods": 0, "marks": 0, "sweep": 0, "ranks": 0,
    }  # fmt: skip
    assert after.marks[-1] == Mark(elapsed=84.0, kind="taken up", text="taken up again")
    assert after.periods == (*before.periods, KnobPeriod(batch_size=1, active_ranks=1, number=4, began=84.0))
    assert after.now == 900
    assert apply(before, taken_up()).batch_size == 4


def test_a_sweep_within_a_run_is_given_up_when_it_is_taken_up_and_one_that_is_the_run_goes_on() -> None:
    before = full()
    within, whole = (apply(before, taken_up(one)).sweep for one in (CONFIG, replace(CONFIG, sweep=PLAN)))
    assert within == replace(before.sweep, current=None, settled="the run was taken up again")  # type: ignore[type-var]
    assert whole == replace(before.sweep, current=None)  # type: ignore[type-var]
    settled = full(sweep=replace(before.sweep, settled="all trials are over"))  # type: ignore[type-var]
    assert apply(settled, taken_up()).sweep.settled == "all trials are over"  # type: ignore[union-attr]


def test_tokens_that_a_sweep_threw_away_are_in_no_file_and_only_the_state_has_them() -> None:
    before = full()
    thrown = apply(before, taken_up(replace(CONFIG, sweep=PLAN)))
    assert (thrown.prompt_tokens, thrown.output_tokens, thrown.completed) == (120, 400, 18)
    kept = apply(before, taken_up(replace(CONFIG, sweep=replace(PLAN, outputs=True))))
    assert (kept.prompt_tokens, kept.output_tokens) == (77, 333)


# --- sweeps -----------------------------------------------------------------------------------------


def sweep(state: RunState) -> SweepState:
    assert state.sweep is not None
    return state.sweep


def test_a_trial_sets_the_knobs_and_is_marked_and_timed() -> None:
    before = full()
    started = apply(before, protocol.TrialStarted(at=101, trial=TRIALS[2]))
    assert set(changes(before, started)) == {"sweep", "batch_size", "active_ranks", "auto", "periods", "marks"} - {
        "batch_size"
    }
    assert (started.batch_size, started.active_ranks, started.auto) == (4, 1, False)
    assert started.periods[-1] == KnobPeriod(batch_size=4, active_ranks=1, number=4, began=86.0, trial=True)
    assert started.marks[-1] == Mark(elapsed=86.0, kind="trial", text="1 x 4")
    assert sweep(started) == replace(sweep(before), current=TRIALS[2], since=101, measuring=False)
    warm = apply(started, protocol.TrialWarm(at=105, trial=TRIALS[2]))
    assert changes(started, warm) == {"sweep": replace(sweep(started), measuring=True)}
    record = TrialRecord(trial=TRIALS[2], outcome="measured")
    over = apply(warm, protocol.TrialFinished(at=111, record=record))
    assert changes(warm, over) == {
        "sweep": replace(sweep(warm), records=(MEASURED, record), current=None, took={1: 8.0, 3: 10.0})
    }
    skipped = TrialRecord(trial=TRIALS[3], outcome="skipped")
    assert sweep(apply(over, protocol.TrialFinished(at=120, record=skipped))).took == {1: 8.0, 3: 10.0}
    settled = apply(started, protocol.SweepSettled(at=130, reason="enough"))
    assert changes(started, settled) == {
        "sweep": replace(sweep(started), settled="enough", current=None),
        "loads": tuple(replace(load, period=None) for load in started.loads),
    }


def test_events_of_a_sweep_that_is_not_known_change_nothing() -> None:
    before = full(sweep=None)
    record = TrialRecord(trial=TRIALS[2], outcome="measured")
    for event in (
        protocol.TrialStarted(at=101, trial=TRIALS[2]),
        protocol.TrialWarm(at=101, trial=TRIALS[2]),
        protocol.TrialFinished(at=101, record=record),
        protocol.SweepSettled(at=101, reason="r"),
    ):
        assert changes(before, apply(before, event)) == {}


def test_a_resumed_sweep_keeps_what_was_measured_and_tries_again_what_failed() -> None:
    failed = TrialRecord(trial=TRIALS[1], outcome="failed", reason="x")
    memory = TrialRecord(trial=TRIALS[2], outcome="out_of_memory")
    before = full()
    before = replace(before, sweep=replace(sweep(before), records=(MEASURED, failed, memory)))
    event = protocol.SweepStarted(
        at=101, plan=PLAN, trials=list(TRIALS), bandwidth_bytes_per_second=3.0, bandwidth_source="copy", no_mbu="why"
    )
    fresh = SweepState(
        plan=PLAN, trials=TRIALS, bandwidth_bytes_per_second=3.0, bandwidth_source="copy", no_mbu="why"
    )  # fmt: skip
    assert changes(before, apply(before, event)) == {"sweep": replace(fresh, records=(MEASURED, memory), took={1: 8.0})}
    for other in (None, replace(sweep(before), settled="over"), replace(sweep(before), plan=replace(PLAN, seed=1))):
        assert sweep(apply(replace(before, sweep=other), event)) == fresh


# --- knobs ------------------------------------------------------------------------------------------


def test_the_search_that_settles_on_the_present_size_ends_no_period() -> None:
    before = full()
    after = apply(before, protocol.BatchSizeChanged(at=101, batch_size=4, auto=False, reason="settled"))
    assert changes(before, after) == {
        "auto": False, "refusal": None, "periods": (replace(before.periods[0], auto=False, reason="settled"),)
    }  # fmt: skip


def test_the_first_batch_size_begins_a_period_at_the_beginning_and_is_no_turn() -> None:
    before = full(periods=(), marks=())
    after = apply(before, protocol.BatchSizeChanged(at=101, batch_size=4, auto=True, reason="searching"))
    assert after.periods == (KnobPeriod(batch_size=4, active_ranks=2, auto=True, reason="searching"),)
    assert after.marks == ()


def test_of_many_marks_and_periods_the_newest_stay() -> None:
    state = full(marks=())
    for number in range(MAX_MARKS + 3):
        state = mark(state, "pause", str(number))
    assert [one.text for one in state.marks] == [str(number) for number in range(3, MAX_MARKS + 3)]
    periods: tuple[KnobPeriod, ...] = ()
    for number in range(MAX_PERIODS + 3):
        periods = with_new_period(periods, float(number), 1, 1, auto=False, reason="", trial=False)
    assert [one.number for one in periods] == list(range(3, MAX_PERIODS + 3))


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (protocol.BatchSizeChanged(batch_size=16, auto=False, reason="as asked for"), "batch size 16: as asked for"),
        (protocol.ActiveRanksChanged(active_ranks=3), "active ranks 3"),
        (protocol.TurnRefused(reason="no prompt is left"), "refused: no prompt is left"),
        (protocol.RankCapped(rank=1, batch_size=8), "rank 1: at most 8 prompts per batch from now on"),
        (protocol.Paused(reason="GPU 0 is hot", asked=False), "paused: GPU 0 is hot"),
        (protocol.Resumed(), "resumed"),
        (protocol.TrialStarted(trial=TRIALS[2]), "trial 3: 1 rank at batch size 4"),
        (protocol.TrialStarted(trial=TRIALS[1]), "trial 2: 2 ranks at batch size 2"),
        (protocol.RanksReady(), None),
        (protocol.TrialWarm(trial=TRIALS[1]), None),
    ],
)
def test_each_turn_of_a_knob_has_its_line_in_the_log(event: AnyEvent, words: str | None) -> None:
    assert knob_words(event) == words


# --- what is read of a state --------------------------------------------------------------------------


def test_figures_of_a_state_are_shares_and_rates_of_its_own() -> None:
    state = full()
    assert (state.done, state.in_flight_tokens, state.pending) == (24, 25, 30)
    assert (state.seconds, state.elapsed, state.model_label) == (85.0, 99.0, "m")
    assert state.rate_mean == (400 + 25) / 85
    assert [state.mean_rank_rate(rank) for rank in state.ranks] == [212 / 85, 213 / 85]
    assert [state.rank_rate(rank) for rank in state.ranks] == [3.0, 5.0]
    assert replace(state, rank_rates=(3.0,)).rank_rate(state.ranks[1]) == 0.0, "nothing is known of it yet"
    ended = protocol.RunEnded(at=100, status="stopped", exit_status=0, summary=summarise(state))
    assert replace(state, ended=ended).rank_rate(state.ranks[1]) == 213 / 84, "after the end, over the run"
    assert (state.padding_waste, state.ranks[0].padding_waste) == (0.1, 0.1)
    assert state.progress == 0.25, "one of four trials"
    alone = replace(state, sweep=None)
    assert alone.progress == pytest.approx((24 + 1.2 + 1.3) / 60)
    assert replace(alone, prompts=0).progress == 0.0
    assert replace(alone, config=None).progress == 24 / 60
    settled = replace(sweep(state), settled="over")
    assert replace(state, sweep=settled).progress == 0.25
    assert replace(state, sweep=replace(settled, plan=replace(PLAN, outputs=True))).progress == alone.progress
    assert replace(state, sweep=replace(sweep(state), trials=())).progress == 0.0
    assert (state.sweeping, replace(state, sweep=settled).sweeping, alone.sweeping) == (True, False, False)
    # 40 s busy and 5 s in hand of the 90 s since all were ready
    assert state.idle(state.ranks[0]) == 0.5
    assert replace(state, ready_at=None).idle(state.ranks[0]) == 0.0
    assert replace(state, ready_at=100.0).idle(state.ranks[0]) == 0.0
    assert (state.continuous, continuous().continuous) == (False, True)


def test_the_label_of_a_model_is_its_name_until_it_is_found() -> None:
    checking = full(model=protocol.ModelProgress(phase="checking"))
    assert checking.model_label == CONFIG.model
    assert full(model=None).model_label == CONFIG.model
    assert RunState().model_label == ""


def test_some_fields_keep_the_names_that_older_journals_and_snapshots_have() -> None:
    stored = msgspec.to_builtins(full())
    assert "stretches" in stored
    assert {"batch_stretch", "stint_started_at", "stints"} <= set(stored["ranks"][0])
    assert msgspec.convert(stored, RunState) == full()


def test_a_rank_without_a_device_has_none_that_is_known() -> None:
    assert (RankState(rank=0).device, busy_rank(0, ready=ready(0, device="cuda:3")).device) == ("?", "cuda:3")
    assert RankState(rank=0).continuous is False
    assert RankState(rank=0).padding_waste is RunState().padding_waste is None


# --- ranks and GPUs ---------------------------------------------------------------------------------


def gpu(index: int, uuid: str, pci: str | None = None) -> DeviceSample:
    return DeviceSample(index=index, uuid=uuid, name="A", pci_bus_id=pci)


def test_a_rank_over_several_gpus_is_on_each_of_them_once() -> None:
    samples = [gpu(0, "GPU-a", "01:00"), gpu(1, "GPU-b", "02:00"), gpu(2, "GPU-c", "03:00")]
    spread = ready(0, device_uuid="a", device_uuids=["c", "x", "GPU-A", "c"], pci_bus_id="02:00")
    assert match_rank_to_gpus(spread, samples) == [2, 0], "in its own order; without those that nobody knows"
    assert match_rank_to_gpus(ready(0, device_uuid="b"), samples) == [1]
    assert match_rank_to_gpus(ready(0, device_uuid="x", pci_bus_id="03:00"), samples) == [2]
    assert match_rank_to_gpus(ready(0), samples) == []


def test_a_mig_device_is_known_by_its_uuid_alone() -> None:
    samples = [gpu(0, "MIG-a", "01:00"), gpu(1, "GPU-b", "02:00")]
    assert match_rank_to_gpu(None, "01:00", samples) is None
    assert match_rank_to_gpu("mig-A", None, samples) == 0
    assert match_rank_to_gpu("a", "02:00", samples) == 0, "the UUID goes first"
    assert (bare_uuid(" MIG-Ab "), bare_uuid("gpu-X"), bare_uuid("GPU-")) == ("ab", "x", None)


def test_events_survive_being_played_in_a_row() -> None:
    """The counts of an answer and its batch agree however they come."""
    state = play(
        output(0, 10, rank=0, at=101), output(1, 2, rank=0, at=101), finished(0, 7, 101), state=full(sweep=None)
    )
    assert state.output_tokens + state.in_flight_tokens == 412 + 13
