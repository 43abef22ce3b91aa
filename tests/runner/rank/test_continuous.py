"""Continuous ranks: prompts come as rows fall free, and knobs act on rows. Only the rows are stand-ins."""

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import Prompt
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.state import RunState, apply
from tests.runner.supervisor.test_supervisor import outputs, watch
from tests.standin.rank import STEPS, answer

PROMPTS = [f"prompt number {number}" for number in range(40)]


def expected(prompts: list[str]) -> list[str]:
    return [answer(Prompt(index=index, id=str(index), text=text)) for index, text in enumerate(prompts)]


@pytest.fixture
def run_through(launch, monkeypatch):
    """Launch a run of continuous stand-in ranks."""

    def go(prompts=PROMPTS, step_seconds=0.005, **settings):
        monkeypatch.setenv("STANDIN_STEP_SECONDS", str(step_seconds))
        return launch(prompts, engine="continuous", **settings)

    return go


@pytest.mark.parametrize("dispatch", ["pull", "split"])
@pytest.mark.parametrize("ranks", [1, 3])
async def test_every_prompt_has_its_answer_and_the_accounts_add_up(run_through, dispatch, ranks):
    started = run_through(dispatch=dispatch, ranks=ranks)
    state, _ = await watch(started)
    assert started.process.wait(10) == 0
    records = outputs(started.directory)
    assert [record.text for record in records] == expected(PROMPTS)
    assert [rank.ready.engine for rank in state.ranks] == ["continuous"] * ranks
    summary = state.ended.summary
    assert (summary.completed, summary.output_tokens, summary.padding_waste) == (40, 40 * STEPS, 0)
    assert state.slots == summary.prompt_tokens + summary.output_tokens, "every token computed is in some account"
    assert state.in_flight_tokens == 0
    assert (state.gather is not None) == (dispatch == "split")


async def test_prompts_come_as_rows_fall_free_and_to_every_view_it_is_one_batch(run_through):
    started = run_through(ranks=1, batch_size=8)
    _, seen = await watch(started)
    begun = [event for event in seen if isinstance(event, protocol.BatchStarted)]
    added = [event for event in seen if isinstance(event, protocol.RowsAdded)]
    ended = [event for event in seen if isinstance(event, protocol.BatchFinished)]
    assert [event.rows for event in begun] == [9], "the batch size, and an eighth of it ahead"
    assert 9 + sum(event.rows for event in added) == 40
    assert len(ended) == 1
    assert {event.batch for event in (*added, *ended)} == {begun[0].batch}


async def test_no_more_rows_than_the_batch_size_are_generated_at_once_and_less_at_once_when_it_is_lowered(run_through):
    started = run_through(PROMPTS * 4, step_seconds=0.06, ranks=1, batch_size=12)
    rows: list[tuple[int, int]] = []
    state = RunState()

    async def turn(message, source):
        nonlocal state
        state = message.state if hasattr(message, "state") else apply(state, message)
        if isinstance(message, protocol.Tick) and message.steps:
            rows.append((state.batch_size, message.steps[0].rows))
            if len(rows) == 3:
                await source.send(protocol.SetBatchSize(batch_size=3))

    await watch(started, when=turn)
    assert max(count for size, count in rows if size == 12) == 12
    after = [count for size, count in rows if size == 3]
    # What is in flight goes on; nothing joins it until it has thinned out. A row takes 4 steps, a tick as long.
    assert max(after[2:]) <= 3
    assert len(outputs(started.directory)) == 160


async def test_one_prompt_that_makes_a_step_raise_costs_that_one_prompt(run_through):
    started = run_through([*PROMPTS[:10], "!raise", *PROMPTS[10:]], ranks=2, batch_size=4)
    _, seen = await watch(started)
    assert started.process.wait(10) == 1
    records = outputs(started.directory)
    assert [record.index for record in records if record.finish_reason == "error"] == [10]
    assert records[10].error == "ValueError: no such word"
    assert len(records) == 41
    assert any(isinstance(event, protocol.BatchFailed) for event in seen)


async def test_prompts_that_cannot_be_done_are_records_too_and_a_rank_of_nothing_else_runs_dry(run_through):
    started = run_through(["!unfit", "!unfit", "!unfit"], ranks=2, batch_size=2)
    state, _ = await watch(started)
    assert started.process.wait(10) == 1
    assert [record.error for record in outputs(started.directory)] == ["does not fit"] * 3
    assert state.failed == 3


@pytest.mark.parametrize("dispatch", ["pull", "split"])
async def test_what_was_sent_to_a_stream_that_failed_is_not_done_twice(run_through, dispatch):
    prompts = [f"p{number}" if number % 7 else "!raise" for number in range(1, 60)]
    started = run_through(prompts, ranks=2, batch_size=6, dispatch=dispatch)
    state, _ = await watch(started)
    assert started.process.wait(60) == 1
    records = outputs(started.directory)
    assert {record.index for record in records if record.error} == {
        at for at, text in enumerate(prompts) if text == "!raise"
    }
    assert len(records) == 59
    if dispatch == "split":
        assert state.gather.differing == []


async def test_out_of_memory_halves_the_rows_and_loses_nothing(run_through, monkeypatch):
    monkeypatch.setenv("STANDIN_ROOM", "5")
    started = run_through(ranks=2, batch_size=16)
    state, seen = await watch(started)
    assert started.process.wait(10) == 0
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    caps = [event.batch_size for event in seen if isinstance(event, protocol.RankCapped)]
    assert min(caps) <= 5
    assert all(rank.cap is not None and rank.cap <= 5 for rank in state.ranks)


async def test_a_prompt_that_is_too_large_alone_gets_an_error_record(run_through):
    started = run_through([*PROMPTS[:6], "!huge"], ranks=1, batch_size=4)
    await watch(started)
    assert started.process.wait(10) == 1
    assert [record.index for record in outputs(started.directory) if record.error] == [6]


async def test_a_prompt_that_kills_its_rank_twice_gets_an_error_record_and_the_others_their_answers(run_through):
    started = run_through([*PROMPTS[:6], "!die", *PROMPTS[6:12]], ranks=2, batch_size=4, max_restarts=9)
    await watch(started)
    assert started.process.wait(60) == 1
    records = outputs(started.directory)
    assert [record.index for record in records if record.error] == [6]
    assert "its rank died of it" in records[6].error
    assert len(records) == 13


async def test_paused_no_row_is_begun_and_what_waits_in_a_ranks_hand_waits(run_through):
    started = run_through(PROMPTS * 2, step_seconds=0.03, ranks=1, batch_size=16)
    ticks: list[int | None] = []
    paused = False

    async def pause(message, source):
        nonlocal paused
        if isinstance(message, protocol.RowsAdded) and not paused:
            paused = True
            await source.send(protocol.Pause())
        if isinstance(message, protocol.Tick) and paused:
            ticks.append(message.steps[0].rows if message.steps else None)
            if len(ticks) == 8:
                await source.send(protocol.Resume())

    state, seen = await watch(started, when=pause)
    at = {
        kind: next(i for i, m in enumerate(seen) if isinstance(m, kind)) for kind in (protocol.Paused, protocol.Resumed)
    }
    while_paused = seen[at[protocol.Paused] : at[protocol.Resumed]]
    assert not any(isinstance(message, (protocol.BatchStarted, protocol.RowsAdded)) for message in while_paused)
    answered = sum(isinstance(message, protocol.Output) for message in while_paused)
    assert answered <= 16, "those in flight, none of those that wait"
    assert state.ended.exit_status == 0
    assert state.completed == 80


async def test_stopping_cleanly_answers_what_is_in_hand_and_stopping_now_does_not(run_through):
    for now in (False, True):
        started = run_through(PROMPTS * 3, step_seconds=0.05, ranks=2, batch_size=4)

        async def stop(message, source, now=now):
            if isinstance(message, protocol.Output):
                await source.send(protocol.Stop(now=now))

        state, seen = await watch(started, when=stop)
        assert started.process.wait(20) == 130
        handed_out = sum(
            message.rows for message in seen if isinstance(message, (protocol.BatchStarted, protocol.RowsAdded))
        )
        records = outputs(started.directory)
        assert (len(records) < handed_out) if now else (len(records) == handed_out)
        assert state.completed == len(records)


async def test_the_search_for_the_batch_size_learns_from_accounts(run_through):
    prompts = [f"prompt {number}" for number in range(3000)]
    started = run_through(prompts, step_seconds=0.02, ranks=1, batch_size=None, max_new_tokens=STEPS)
    state, seen = await watch(started)
    assert started.process.wait(30) == 0
    sizes = [event.batch_size for event in seen if isinstance(event, protocol.BatchSizeChanged)]
    assert sizes[:3] == [64, 128, 256], "a step takes as long whatever its rows: larger is better"
    assert sum(isinstance(event, protocol.AccountClosed) for event in seen) > 3
    assert state.costs == (), "rows that come and go are no batches of a size"


async def test_a_sweep_measures_closed_batches_on_continuous_ranks_and_the_rest_continuously(run_through):
    plan = SweepPlan(batch_sizes=(2, 8), ranks=(2,), repeats=1, least_rounds=1, least_seconds=0.0, outputs=True)
    started = run_through(PROMPTS * 3, ranks=2, sweep=plan)
    state, seen = await watch(started)
    assert started.process.wait(20) == 0
    assert [record.outcome for record in state.sweep.records] == ["measured", "measured"]
    assert len(outputs(started.directory)) == 120
    assert any(isinstance(event, protocol.RowsAdded) for event in seen)


def test_ranks_end_together_because_each_gets_its_share_of_what_is_left():
    scheduler = Scheduler(bytes(100), order="input", batch_size=64, active_ranks=2)
    first = scheduler.next_rows(0, {})
    second = scheduler.next_rows(1, {0: len(first.indices)})
    assert (len(first.indices), len(second.indices)) == (50, 50)


def test_a_rank_is_kept_an_eighth_ahead_and_topped_up_by_no_less():
    scheduler = Scheduler(bytes(1000), order="input", batch_size=32, active_ranks=1)
    assert len(scheduler.next_rows(0, {}).indices) == 36
    assert scheduler.next_rows(0, {0: 33}) is None
    assert len(scheduler.next_rows(0, {0: 32}).indices) == 4
