"""Memory that torch has reserved, beside what is in use: from a batch into the state, a period and a trial."""

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import BatchResult
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState, Trial, TrialRecord
from rankdeck.runner.state import RunState
from rankdeck.runner.state.periods import KnobPeriod, share_of_batch
from rankdeck.runner.state.settings import settings
from rankdeck.runner.supervisor.trial_meter import TrialMeter
from rankdeck.runner.sweep.cells import cells
from tests.runner.state.test_state import play, ready


def batch(in_use: int | None, reserved: int | None) -> BatchResult:
    return BatchResult(
        rows=2, prompt_tokens=6, output_tokens=20, slots=50, padded_slots=10, steps=10, prefill_seconds=0.1,
        decode_seconds=0.9, seconds=1.0, peak_memory_bytes=in_use, reserved_memory_bytes=reserved,
    )  # fmt: skip


def begun() -> RunState:
    config = RunConfig(prompts="p.txt", ranks=1, batch_size=2, max_new_tokens=10)
    return play(
        protocol.RunStarted(at=0.0, name="n", directory="/d", config=config, prompts=8),
        protocol.RanksLaunched(at=1.0, attempt=1, world_size=1),
        ready(0),
        protocol.RanksReady(at=10.0),
        protocol.BatchSizeChanged(at=10.0, batch_size=2, auto=False, reason="as asked for"),
    )


def one_batch(state: RunState, number: int, result: BatchResult) -> RunState:
    return play(
        protocol.BatchStarted(at=10.0 * number, rank=0, batch=number, rows=2),
        protocol.BatchFinished(at=10.0 * number + 5, rank=0, batch=number, result=result),
        state=state,
    )


def test_a_rank_and_a_setting_keep_the_largest_reserve_of_their_batches():
    state = begun()
    for number, (in_use, reserved) in enumerate([(4, 9), (6, 64), (5, 20)], 1):
        state = one_batch(state, number, batch(in_use, reserved))
    assert (state.ranks[0].peak_memory_bytes, state.ranks[0].reserved_memory_bytes) == (6, 64)
    (row,) = settings(state.periods)
    assert (row.peak_memory_bytes, row.reserved_memory_bytes) == (6, 64)


def test_two_periods_of_one_setting_show_the_larger_reserve():
    one, other = (
        KnobPeriod(batch_size=2, active_ranks=1).with_batch(0, share_of_batch(20, 1.0), peak, reserve)
        for peak, reserve in ((4, 9), (3, 12))
    )
    (row,) = settings([one, other])
    assert (row.peak_memory_bytes, row.reserved_memory_bytes) == (4, 12)


def test_a_journal_from_before_the_reserve_was_measured_is_still_read():
    line = msgspec.to_builtins(batch(4, 9))
    del line["reserved_memory_bytes"]
    state = one_batch(begun(), 1, msgspec.convert(line, BatchResult))
    assert (state.ranks[0].peak_memory_bytes, state.ranks[0].reserved_memory_bytes) == (4, None)
    stored = msgspec.to_builtins(state)
    del stored["ranks"][0]["reserved_memory_bytes"], stored["stretches"][-1]["reserved_memory_bytes"]
    assert msgspec.convert(stored, RunState) == state


def test_a_trial_and_its_setting_have_the_largest_reserve_of_any_rank():
    meter = TrialMeter([ready(0), ready(1)], started=0.0)
    meter.add_batch(0, 0.0, 1.0, batch(4, 9))
    meter.add_batch(1, 0.0, 1.0, batch(5, 64))
    found = meter.result({})
    assert (found.rank_peak_memory_bytes, found.reserved_memory_bytes) == ([4, 5], 64)
    plan = SweepPlan(batch_sizes=[2], ranks=[2])
    trial = Trial(number=1, repeat=1, active_ranks=2, batch_size=2)
    measured = TrialRecord(trial=trial, outcome="measured", result=found)
    (cell,) = cells(SweepState(plan=plan, trials=(trial,), records=(measured,)))
    assert cell.reserved_memory_bytes == 64
