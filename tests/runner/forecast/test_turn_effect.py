"""What a turn of a knob will bring, before it is measured: when it takes effect, and how near the first steps come."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.forecast.turn_effect import LEAST_SECONDS, Coming, Provisional, provisional, takes_effect
from rankdeck.runner.protocol import AnyEvent, BatchResult, OutputRecord, StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.orders import ACCOUNT_SECONDS
from rankdeck.runner.state import RunState, apply
from tests import ROOT

TOKENS = 100


class Job:
    """A run at fixed length whose batches take 1 s of prefill and then `step` seconds a step; no clock."""

    def __init__(self, *, ranks: int = 2, size: int = 4, prompts: int = 1000, device: str = "cpu", engine="static"):
        config = RunConfig(prompts="p", ranks=ranks, batch_size=size, max_new_tokens=TOKENS, ignore_eos=True)
        self.at, self.state, self.batches = 1000.0, RunState(), 0
        self.in_hand: dict[int, tuple[int, int, float]] = {}
        self.say(
            protocol.RunStarted(name="n", directory="/d", config=config, prompts=prompts),
            protocol.RanksLaunched(attempt=1, world_size=ranks),
        )
        for rank in range(ranks):
            self.say(
                protocol.RankReady(
                    rank=rank, device=device, device_name="D", dtype="float32", engine=engine, seconds=1, parameters=1
                )
            )
        self.say(protocol.RanksReady(), protocol.BatchSizeChanged(batch_size=size, auto=False, reason=""))

    def say(self, *events: AnyEvent) -> "Job":
        for event in events:
            self.state = apply(self.state, replace(event, at=self.at))
        return self

    def begin(self, *ranks: int, rows: int | None = None) -> "Job":
        for rank in ranks:
            self.batches += 1
            rows = rows or self.state.batch_size
            self.in_hand[rank] = self.batches, rows, self.at
            self.say(protocol.BatchStarted(rank=rank, batch=self.batches, rows=rows))
        return self

    def steps(self, seconds: float, step: float = 0.05) -> "Job":
        """Time passes; every rank with a batch reports its step four times a second."""
        for _ in range(round(seconds * 4)):
            self.at += 0.25
            flights = [
                StepsInFlight(rank=rank, batch=batch, step=done, output_tokens=done * rows)
                for rank, (batch, rows, began) in self.in_hand.items()
                if (done := int((self.at - began - 1.0) / step + 1e-6)) > 0
            ]
            self.say(protocol.Tick(steps=flights))
        return self

    def finish(self, *ranks: int) -> "Job":
        for rank in ranks:
            batch, rows, began = self.in_hand.pop(rank)
            for _ in range(rows):
                self.say(
                    protocol.Output(
                        record=OutputRecord(
                            index=0, id="0", prompt="p", text="t", prompt_tokens=1, output_tokens=TOKENS,
                            finish_reason="length", error=None, rank=rank, batch=batch,
                        )
                    )
                )  # fmt: skip
            seconds = self.at - began
            result = BatchResult(
                rows=rows, prompt_tokens=rows, output_tokens=rows * TOKENS, slots=rows * (TOKENS + 1), padded_slots=0,
                steps=TOKENS, row_steps=rows * TOKENS, prefill_seconds=1.0, decode_seconds=seconds - 1, seconds=seconds,
            )  # fmt: skip
            self.say(protocol.BatchFinished(rank=rank, batch=batch, result=result))
        return self

    def round(self, *ranks: int, seconds: float = 6.0, step: float = 0.05) -> "Job":
        return self.begin(*ranks).steps(seconds, step).finish(*ranks)

    def size(self, size: int) -> "Job":
        return self.say(protocol.BatchSizeChanged(batch_size=size, auto=False, reason="as asked for"))

    def active(self, ranks: int) -> "Job":
        return self.say(protocol.ActiveRanksChanged(active_ranks=ranks))

    @property
    def seen(self) -> Provisional:
        found = provisional(self.state)
        assert found is not None
        return found


# --- when it takes effect -----------------------------------------------------------------------------


def test_a_batch_size_takes_effect_when_the_first_batch_of_an_active_rank_ends():
    job = Job().round(0, 1).begin(1).steps(1.0).begin(0).steps(3.0).size(8)
    coming = takes_effect(job.state)
    assert coming is not None
    assert (coming.until, coming.batch) == ("batch ends", 3), "rank 1 began first"
    assert coming.seconds == pytest.approx(2.0, abs=0.1), "it has 40 of 100 steps to go, at 0.05 s"
    later = job.steps(0.5)
    assert takes_effect(later.state).seconds == pytest.approx(1.5, abs=0.1)


def test_before_the_first_steps_of_a_batch_its_end_is_predicted_from_those_before():
    job = Job().round(0, 1).begin(0, 1).steps(0.5).size(8)
    assert takes_effect(job.state) == Coming(until="batch ends", batch=3, seconds=pytest.approx(5.5, abs=0.1))
    new = Job().begin(0, 1).steps(0.5).size(8)
    assert takes_effect(new.state) == Coming(until="batch ends", batch=1), "nobody knows how long yet"


def test_fewer_ranks_take_effect_when_the_last_batch_of_an_inactive_one_ends():
    job = Job(ranks=3).round(0, 1, 2).begin(0, 1).steps(3.0).begin(2).steps(2.0).active(1)
    coming = takes_effect(job.state)
    assert coming is not None
    assert (coming.batch, coming.seconds) == (6, pytest.approx(4.0, abs=0.1))
    job.steps(1.0).finish(0).begin(0).steps(1.0)
    assert takes_effect(job.state).batch == 6, "rank 0 is not alone before"
    assert provisional(job.state) is None
    job.finish(1).steps(2.0).finish(2)
    assert takes_effect(job.state) is None
    assert job.seen.tokens_per_second == pytest.approx(400 / 6, rel=0.05), "of the batch that it has in hand"
    assert job.seen.seconds_left == pytest.approx(3 + 6, abs=0.3), "what is measured is the next one"


def test_one_rank_more_takes_effect_at_once():
    job = Job().active(1).round(0).round(0).begin(0).active(2).begin(1)
    assert takes_effect(job.state) is None
    assert (job.seen.tokens_per_second, job.seen.batch) == (None, 4)


def test_a_turn_of_a_paused_run_waits_until_it_goes_on():
    job = Job().round(0, 1).begin(0).say(protocol.Paused(reason="asked for", asked=True)).size(8)
    assert takes_effect(job.state) == Coming(until="run goes on")
    job.finish(0).say(protocol.Resumed())
    assert takes_effect(job.state) == Coming(until="next batch")


def test_a_continuous_rank_takes_it_as_its_rows_end():
    job = Job(engine="continuous").begin(0, 1).steps(3.0).size(8)
    assert takes_effect(job.state) == Coming(until="rows end")
    assert takes_effect(Job(engine="vllm").begin(0, 1).steps(3.0).size(8).state) == Coming(until="next step")
    fewer = Job(engine="vllm").begin(0, 1).steps(3.0).say(protocol.ActiveRanksChanged(active_ranks=1))
    assert takes_effect(fewer.state) == Coming(until="rows end"), "of the rank that rests from now on"


@pytest.mark.parametrize("over", ["no turn", "the same size again", "taken effect", "the run has ended", "a trial"])
def test_nothing_is_said_of_a_turn_that_is_none_or_over(over):
    job = Job().round(0, 1).begin(0, 1).steps(3.0)
    if over != "no turn":
        job.size(8)
    if over == "the same size again":
        job.steps(0.5).size(4)
    if over == "taken effect":
        job.finish(0).begin(0)
    if over == "the run has ended":
        summary = protocol.Summary(**dict.fromkeys(protocol.Summary.__struct_fields__, 0) | {"ranks": []})
        job.say(protocol.RunEnded(status="stopped", exit_status=0, summary=summary))
    if over == "a trial":
        last = replace(job.state.periods[-1], trial=True)
        job.state = replace(job.state, periods=(*job.state.periods[:-1], last))
    assert takes_effect(job.state) is None
    if over != "taken effect":
        assert provisional(job.state) is None


# --- what its first steps show ------------------------------------------------------------------------


def test_within_two_seconds_of_its_first_steps_a_long_batch_shows_its_rate_prefill_included():
    job = Job().round(0, 1).size(8).begin(0, 1).steps(1.25, step=0.5)
    assert job.seen.tokens_per_second is None
    job.steps(2.0, step=0.5)
    whole = 1 + TOKENS * 0.5
    assert job.seen.tokens_per_second == pytest.approx(2 * 8 * TOKENS / whole, rel=0.15)
    assert (job.seen.steps, job.seen.ranks_with_steps, job.seen.active) == (4, 2, 2)
    assert job.seen.seconds_left == pytest.approx(whole - 3.25, rel=0.15)
    job.steps(20.0, step=0.5)
    assert job.seen.tokens_per_second == pytest.approx(2 * 8 * TOKENS / whole, rel=0.01)


@given(step=st.floats(0.02, 0.5), rows=st.integers(1, 64), ranks=st.integers(1, 4))
def test_at_the_end_of_its_batches_it_is_what_is_measured(step, rows, ranks):
    job = Job(ranks=ranks, size=rows + 1).round(*range(ranks)).size(rows)
    seconds = round(4 * (1 + TOKENS * step)) / 4
    job.begin(*range(ranks)).steps(seconds, step)
    seen = job.seen
    job.finish(*range(ranks))
    assert provisional(job.state) is None, "it is measured"
    assert seen.tokens_per_second == pytest.approx(job.state.periods[-1].warm_rate, rel=0.1)
    assert seen.seconds_left <= step + 0.25


def test_a_rank_that_shows_nothing_yet_is_taken_to_be_as_fast_as_the_others():
    job = Job().round(0, 1).begin(0, 1).steps(2.0).size(8).steps(4.0).finish(0).begin(0).steps(3.0)
    assert (job.seen.ranks_with_steps, job.seen.active) == (1, 2)
    assert job.seen.tokens_per_second == pytest.approx(2 * 800 / 6, rel=0.05)


def test_what_one_rank_has_measured_counts_and_the_other_is_waited_for():
    job = Job().round(0, 1).size(8).begin(0).steps(3.0).begin(1).steps(3.0).finish(0).begin(0)
    assert job.seen.ranks_with_steps == 2
    assert job.seen.tokens_per_second == pytest.approx(2 * 800 / 6, rel=0.05)
    assert job.seen.steps == 40, "of rank 1: what rank 0 has measured does not count"
    assert job.seen.seconds_left == pytest.approx(3.0, abs=0.1)


def test_steps_between_two_ticks_alone_tell_no_rate():
    job = Job().round(0, 1).size(8).begin(0, 1).steps(1.0 + LEAST_SECONDS)
    assert job.seen.tokens_per_second is None
    assert job.steps(0.5).seen.tokens_per_second is not None


def test_on_a_gpu_the_first_larger_batch_is_cold_so_a_second_one_is_waited_for():
    job = Job(device="cuda:0", ranks=1).round(0).round(0).size(8).begin(0).steps(3.0)
    assert job.seen.seconds_left == pytest.approx(3.0 + 6.0, abs=1.2)
    smaller = Job(device="cuda:0", ranks=1).round(0).round(0).size(2).begin(0).steps(3.0)
    assert smaller.seen.seconds_left == pytest.approx(3.0, abs=0.1)


def test_nobody_promises_a_measurement_that_too_few_prompts_are_left_for():
    job = Job(prompts=16).round(0, 1).size(8).begin(0).steps(3.0)
    assert job.state.pending == 0
    assert job.seen.tokens_per_second is not None
    assert job.seen.seconds_left is None, "rank 1 will have no batch of that size"


def test_of_continuous_ranks_it_is_the_rate_since_the_turn():
    job = Job(engine="continuous", ranks=1).begin(0, rows=20).steps(4.0, step=0.1).size(8)
    assert provisional(job.state) is None
    result = BatchResult(
        rows=0, prompt_tokens=0, output_tokens=9, slots=9, padded_slots=0, steps=9, prefill_seconds=0,
        decode_seconds=1, seconds=1,
    )  # fmt: skip
    job.say(protocol.AccountClosed(rank=0, batch=1, result=result))
    assert job.seen.tokens_per_second is None, "nothing was generated since"
    job.steps(2.0, step=0.1)
    assert job.seen.tokens_per_second == pytest.approx(20 / 0.1, rel=0.15)
    assert job.seen.seconds_left == pytest.approx(min(ACCOUNT_SECONDS, TOKENS * 0.1) - 2.0, abs=0.3)


# --- a run as it was ----------------------------------------------------------------------------------


def test_in_a_recorded_run_it_comes_within_an_eighth_of_what_was_then_measured():
    events = msgspec.json.Decoder(AnyEvent)
    state, seen, measured = RunState(), {}, {}
    for line in Path(ROOT, "tui/sources/recorded/stories.jsonl").read_bytes().splitlines():
        state = apply(state, events.decode(line))
        if not state.periods:
            continue
        period = state.periods[-1]
        if (found := provisional(state)) is not None and found.tokens_per_second is not None:
            seen.setdefault(period.number, []).append((state.now, found))
        if period.warm_rate is not None:
            measured.setdefault(period.number, (state.now, period.warm_rate))
    assert {1, 3} <= set(seen) & set(measured)
    for number in set(seen) & set(measured):
        end, rate = measured[number]
        for at, found in seen[number]:
            assert found.tokens_per_second == pytest.approx(rate, rel=1 / 8)
            assert found.seconds_left == pytest.approx(end - at, abs=0.6)
