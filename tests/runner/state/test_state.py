"""The state: figures from events alone, nothing counted twice, padding never counted."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.forecast.forecast import eta_seconds
from rankdeck.runner.protocol import BatchResult, DeviceSample, OutputRecord, StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, apply, summarise
from rankdeck.runner.state.reducer import LOG_LINES
from rankdeck.runner.state.ticks import HISTORY_POINTS


def output(index: int, tokens: int, *, rank: int = 0, at: float = 0.0, error: str | None = None) -> protocol.Output:
    reason = "stop" if error is None else "error"
    record = OutputRecord(
        index=index, id=str(index), prompt="p", text="t", prompt_tokens=3, output_tokens=tokens, finish_reason=reason,
        error=error, rank=rank, batch=1,
    )  # fmt: skip
    return protocol.Output(at=at, record=record)


def finished(rank: int, batch: int, at: float, rows: int = 2, tokens: int = 20) -> protocol.BatchFinished:
    result = BatchResult(
        rows=rows, prompt_tokens=3 * rows, output_tokens=tokens, slots=50, padded_slots=10, steps=10,
        prefill_seconds=0.1, decode_seconds=0.9, seconds=1.0, peak_memory_bytes=1000 + batch,
    )  # fmt: skip
    return protocol.BatchFinished(at=at, rank=rank, batch=batch, result=result)


def ready(rank: int, **facts) -> protocol.RankReady:
    values = {
        "device": "cpu",
        "device_name": "CPU",
        "dtype": "float32",
        "engine": "static",
        "seconds": 1,
        "parameters": 1,
    }
    return protocol.RankReady(rank=rank, **{**values, **facts})


def play(*events, state: RunState | None = None) -> RunState:
    state = state or RunState()
    for event in events:
        state = apply(state, event)
    return state


@pytest.fixture
def in_flight() -> RunState:
    """Two ranks ready at 10 s, each with a batch of two in hand since then."""
    config = RunConfig(prompts="p.txt", ranks=2, batch_size=2, max_new_tokens=10)
    return play(
        protocol.RunStarted(at=0.0, name="n", directory="/d", config=config, prompts=8),
        protocol.RanksLaunched(at=1.0, attempt=1, world_size=2),
        ready(0),
        ready(1),
        protocol.RanksReady(at=10.0),
        protocol.BatchStarted(at=10.0, rank=0, batch=1, rows=2),
        protocol.BatchStarted(at=10.0, rank=1, batch=2, rows=2),
    )


def test_tokens_in_flight_become_tokens_done_without_being_counted_twice(in_flight):
    steps = [StepsInFlight(rank=0, batch=1, step=10, output_tokens=20)]
    state = play(protocol.Tick(at=12.0, steps=steps), state=in_flight)
    assert state.output_tokens + state.in_flight_tokens == 20
    state = play(output(0, 10, at=13.0), state=state)
    assert (state.output_tokens, state.in_flight_tokens) == (10, 10)
    state = play(output(1, 10, at=13.0), finished(0, 1, 13.0), state=state)
    assert (state.output_tokens, state.in_flight_tokens) == (20, 0)


def test_seconds_run_from_the_first_batch_to_the_last_result(in_flight):
    state = play(
        output(0, 5, at=14.0),
        finished(0, 1, 14.0),
        output(2, 5, rank=1, at=15.0),
        finished(1, 2, 15.0),
        state=in_flight,
    )
    state = play(protocol.Tick(at=40.0), state=state)
    assert state.seconds == 30.0, "still running"
    summary = summarise(state)
    assert summary.seconds == 5.0
    assert summary.tokens_per_second == 2.0
    assert [rank.tokens_per_second for rank in summary.ranks] == [1.0, 1.0], "the ranks add up to the run"


def test_idle_is_the_share_of_time_since_all_ranks_were_ready_without_a_batch(in_flight):
    state = play(finished(0, 1, 15.0), protocol.Tick(at=20.0), state=in_flight)
    assert state.idle(state.ranks[0]) == 0.5
    assert state.idle(state.ranks[1]) == 0.0, "it still has its batch in hand"


def test_padding_waste_is_the_share_of_slots_without_a_real_token(in_flight):
    state = play(finished(0, 1, 15.0), finished(1, 2, 15.0), state=in_flight)
    assert state.padding_waste == 0.2


def test_throughput_now_looks_back_a_few_seconds_and_the_peak_stays(in_flight):
    state = in_flight
    for tick in range(1, 41):
        steps = [StepsInFlight(rank=0, batch=1, step=1, output_tokens=min(tick, 20) * 10)]
        state = play(protocol.Tick(at=10 + tick / 4, steps=steps), state=state)
        if tick == 20:
            assert state.rate_now == pytest.approx(40.0)
    assert state.rate_now == pytest.approx(0.0), "no new token in the last five seconds"
    assert state.rate_peak == pytest.approx(40.0)
    assert state.rate_mean == pytest.approx(20.0)


def test_errors_are_failed_prompts_and_not_completed_ones(in_flight):
    state = play(output(0, 5), output(1, 0, error="too long"), state=in_flight)
    assert (state.completed, state.failed, state.done) == (1, 1, 2)


def test_progress_counts_batches_in_flight_by_their_steps_and_gives_an_eta(in_flight):
    state = play(
        protocol.Tick(at=12.0, steps=[StepsInFlight(rank=0, batch=1, step=5, output_tokens=10)]), state=in_flight
    )
    assert state.progress == pytest.approx(1 / 8)
    assert eta_seconds(state) == pytest.approx(14.0)


def test_steps_of_a_batch_that_is_over_change_nothing(in_flight):
    state = play(finished(0, 1, 12.0), state=in_flight)
    late = play(protocol.Tick(at=12.0, steps=[StepsInFlight(rank=0, batch=1, step=9, output_tokens=9)]), state=state)
    assert late.ranks[0] == state.ranks[0]


def test_ranks_are_matched_to_their_gpu_by_uuid_not_by_order():
    samples = [DeviceSample(index=0, uuid="GPU-aaaa", name="A"), DeviceSample(index=1, uuid="GPU-bbbb", name="B")]
    state = play(
        protocol.RanksLaunched(attempt=1, world_size=2),
        ready(0, device="cuda:0", device_uuid="bbbb"),
        ready(1, device="cuda:1", device_uuid="cccc"),
        protocol.Tick(devices=samples),
    )
    assert [device.ranks for device in state.devices] == [(), (0,)], "rank 1 is unmapped, not guessed"


def test_a_missing_busy_sample_is_a_gap_not_a_zero():
    state = RunState()
    for busy in (50.0, None, 70.0):
        state = play(protocol.Tick(devices=[DeviceSample(index=0, uuid="u", name="A", busy_percent=busy)]), state=state)
    assert state.devices[0].busy_history == (50.0, None, 70.0)


def test_the_end_of_a_run_leaves_nothing_in_flight(in_flight):
    state = play(
        protocol.Tick(at=12.0, steps=[StepsInFlight(rank=0, batch=1, step=5, output_tokens=10)]), state=in_flight
    )
    ended = protocol.RunEnded(at=13.0, status="stopped", exit_status=130, summary=summarise(state))
    state = play(ended, state=state)
    assert state.in_flight_tokens == 0
    assert {rank.phase for rank in state.ranks} == {"left"}
    assert state.elapsed == 13.0


def test_memory_is_bounded_however_long_the_run(in_flight):
    state = in_flight
    for second in range(3 * HISTORY_POINTS):
        state = play(protocol.Tick(at=10.0 + second), protocol.LogLine(source="rank 0", text="x"), state=state)
    assert len(state.history) <= HISTORY_POINTS
    assert state.history[-1].elapsed >= 3 * HISTORY_POINTS - 1 - state.history_step
    assert len(state.log) == LOG_LINES


@given(
    st.lists(st.sampled_from(["start", "output", "finish", "fail", "tick", "lost", "ready"]), max_size=60), st.data()
)
def test_any_order_of_events_gives_a_valid_state_that_survives_encoding(kinds, data):
    state = play(
        protocol.RunStarted(name="n", directory="/d", config=RunConfig(prompts="p"), prompts=10),
        protocol.RanksLaunched(attempt=1, world_size=2),
    )
    for number, kind in enumerate(kinds):
        at, rank, batch = float(number), data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
        event = {
            "start": protocol.BatchStarted(at=at, rank=rank, batch=batch, rows=2),
            "output": output(number, 4, rank=rank, at=at),
            "finish": finished(rank, batch, at),
            "fail": protocol.BatchFailed(at=at, rank=rank, batch=batch, kind="error", error="e"),
            "tick": protocol.Tick(at=at, steps=[StepsInFlight(rank=rank, batch=batch, step=1, output_tokens=2)]),
            "lost": protocol.RankLost(at=at, rank=rank, cause="c"),
            "ready": protocol.RanksReady(at=at),
        }[kind]
        state = apply(state, event)
        assert state.in_flight_tokens >= 0
        assert 0 <= state.progress <= 1
        assert all(0 <= state.idle(one) <= 1 for one in state.ranks)
    assert msgspec.json.decode(msgspec.json.encode(state), type=RunState) == state


def test_records_that_were_lost_are_counted_no_more():
    state = RunState(completed=9, failed=3, prompt_tokens=50, output_tokens=70)
    state = apply(
        state, protocol.RecordsLost(at=1, records=6, completed=5, failed=1, prompt_tokens=20, output_tokens=30)
    )
    assert (state.completed, state.failed, state.prompt_tokens, state.output_tokens) == (5, 1, 20, 30)
