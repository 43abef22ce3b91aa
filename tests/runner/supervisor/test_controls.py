"""Turning the knobs of a running job, and what each turn changes."""

import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.scheduling.batch_size_search import Known, Search, memory_limit
from rankdeck.runner.state.periods import KnobPeriod, RankShare, scaling
from tests.runner.supervisor.test_outliving import expected
from tests.runner.supervisor.test_supervisor import PROMPTS, outputs, watch

MANY = [f"prompt {number}" for number in range(80)]


@pytest.fixture(autouse=True)
def slowly(monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.01")


def batches(seen):
    return [message for message in seen if isinstance(message, protocol.BatchStarted)]


async def test_a_new_batch_size_counts_from_the_next_batch_on(launch):
    started = launch(MANY, batch_size=2)
    measured = set()

    async def turn(message, source):
        if isinstance(message, protocol.BatchFinished) and len(measured) < 2:
            measured.add(message.rank)
            if len(measured) == 2:
                await source.send(protocol.SetBatchSize(batch_size=8))

    state, seen = await watch(started, when=turn)
    changed = next(
        at
        for at, message in enumerate(seen)
        if isinstance(message, protocol.BatchSizeChanged) and message.batch_size == 8
    )
    assert max(batch.rows for batch in batches(seen[:changed])) == 2
    assert min(batch.rows for batch in batches(seen[changed:])[:4]) > 4
    assert [mark.text for mark in state.marks] == ["batch size 8"]
    before, after = state.periods
    assert (before.batch_size, after.batch_size) == (2, 8)
    assert before.tokens_per_second > 0
    assert after.tokens_per_second > 0
    assert [record.text for record in outputs(started.directory)] == expected(MANY)
    said = [entry.text for entry in state.log if entry.source == "knobs"]
    assert said == ["batch size 2: as asked for", "batch size 8: as asked for"]
    assert "knobs: batch size 8: as asked for" in (started.directory / "runner.log").read_text()


async def test_an_inactive_rank_gets_no_batch_and_is_taken_in_again_at_once(launch):
    started = launch(MANY, batch_size=2)
    measured, alone = set(), []

    async def turn(message, source):
        if not isinstance(message, protocol.BatchFinished):
            return
        if len(measured) < 2:
            measured.add(message.rank)
            if len(measured) == 2:
                await source.send(protocol.SetActiveRanks(active_ranks=1))
        elif len(alone) < 6:
            alone.append(message.rank)
            if len(alone) == 6:
                await source.send(protocol.SetActiveRanks(active_ranks=2))

    state, seen = await watch(started, when=turn)
    turns = [at for at, message in enumerate(seen) if isinstance(message, protocol.ActiveRanksChanged)]
    assert {batch.rank for batch in batches(seen[turns[0] : turns[1]])} == {0}
    assert {batch.rank for batch in batches(seen[turns[1] :])} == {0, 1}
    assert state.attempt == 1, "its model stayed loaded"
    table = scaling(state.periods, 2)
    assert [row.active_ranks for row in table] == [1, 2]
    assert table[1].speedup == table[1].tokens_per_second / table[0].tokens_per_second
    assert table[1].efficiency == table[1].speedup / 2
    assert [record.text for record in outputs(started.directory)] == expected(MANY)


async def test_in_a_split_run_the_share_of_an_inactive_rank_is_done_by_the_others(launch):
    started = launch(MANY, dispatch="split")

    async def turn(message, source):
        if isinstance(message, protocol.RanksReady):
            await source.send(protocol.SetActiveRanks(active_ranks=1))

    _state, _ = await watch(started, when=turn)
    assert started.process.wait(10) == 0
    assert [record.text for record in outputs(started.directory)] == expected(MANY)


async def test_nothing_is_handed_out_while_paused(launch):
    started = launch(MANY)
    seen_paused = []

    async def pause(message, source):
        if isinstance(message, protocol.BatchFinished) and message.batch == 3:
            await source.send(protocol.Pause())
        if isinstance(message, protocol.Paused):
            seen_paused.append(message)
        if seen_paused and isinstance(message, protocol.Tick) and not message.steps:
            await source.send(protocol.Resume())

    state, seen = await watch(started, when=pause)
    paused = next(at for at, message in enumerate(seen) if isinstance(message, protocol.Paused))
    resumed = next(at for at, message in enumerate(seen) if isinstance(message, protocol.Resumed))
    assert not batches(seen[paused:resumed])
    assert state.paused is None
    assert state.ended.exit_status == 0
    assert [mark.text for mark in state.marks] == ["paused", "resumed"]


async def test_nonsense_on_a_knob_is_brought_into_its_range(launch):
    started = launch(PROMPTS)

    async def turn(message, source):
        if isinstance(message, protocol.RanksReady):
            await source.send(protocol.SetBatchSize(batch_size=-5))
            await source.send(protocol.SetActiveRanks(active_ranks=99))

    state, _ = await watch(started, when=turn)
    assert (state.batch_size, state.active_ranks) == (1, 2)


async def test_auto_shares_a_small_job_out_in_one_even_round(launch):
    started = launch(PROMPTS, batch_size=None)
    state, seen = await watch(started)
    assert [batch.rows for batch in batches(seen)] == [13, 12]
    assert state.periods[0].reason == "25 prompts are one even round of 13 per rank"


def test_auto_cuts_a_job_of_a_few_rounds_into_even_ones_and_does_not_search():
    choice = Search(Known(prompts=400, ranks=2, tokens_per_row=200)).start()
    assert (choice.batch_size, choice.settled) == (50, True)
    assert choice.reason == "400 prompts are 4 even rounds of 50 per rank"
    assert not Search(Known(prompts=520, ranks=2, tokens_per_row=200)).start().settled


async def test_auto_grows_while_it_pays_and_settles_with_a_reason(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.3")
    started = launch([f"p{number}" for number in range(2000)], batch_size=None)
    state, seen = await watch(started)
    sizes = [message.batch_size for message in seen if isinstance(message, protocol.BatchSizeChanged)]
    assert sizes[:3] == [64, 128, 256], "rows cost a stand-in rank no time: larger always pays"
    assert not state.auto
    assert "one even round" in state.periods[-1].reason
    assert run_directory.read_run_file(started.directory).summary.completed == 2000


KNOWN = Known(prompts=10_000, ranks=2, tokens_per_row=200, memory_free_bytes=10**9, kv_bytes_per_token=10_000)


def test_the_search_stops_where_a_larger_batch_gains_less_than_five_percent():
    search = Search(Known(prompts=10_000, ranks=2, tokens_per_row=200))
    assert search.start().batch_size == 64
    assert search.learn(64, 100.0, None, 9000).batch_size == 128
    assert search.learn(128, 180.0, None, 8000).batch_size == 256
    choice = search.learn(256, 184.0, None, 7000)
    assert (choice.batch_size, choice.settled) == (128, True)
    assert choice.reason == "settled at 128: 128 -> 256 changed tokens/s by +2%, and a larger batch must gain 5 %"


def test_the_search_steps_back_where_a_larger_batch_is_slower():
    search = Search(Known(prompts=10_000, ranks=2, tokens_per_row=200))
    search.start()
    search.learn(16, 100.0, None, 9000)
    choice = search.learn(32, 90.0, None, 8000)
    assert (choice.batch_size, choice.settled) == (16, True)


def test_the_search_never_asks_for_more_than_memory_holds():
    assert memory_limit(KNOWN) == int(0.9e9 / (10_000 * 200 * 1.3))
    search = Search(
        Known(prompts=10_000, ranks=2, tokens_per_row=200, memory_free_bytes=10**8, kv_bytes_per_token=10_000)
    )
    choice = search.start()
    assert choice.batch_size == 34
    assert search.learn(34, 200.0, None, 9000).reason == "settled at 34: 68 would not fit, memory allows about 34 rows"


def test_measured_peaks_say_more_than_the_estimate():
    search = Search(KNOWN)
    search.start()
    search.learn(16, 100.0, 2_000_000_000, 9000)
    choice = search.learn(32, 190.0, 2_300_000_000, 8000)
    assert choice.settled
    assert choice.reason == "settled at 32: 64 would not fit, it would take 120% of the free memory"


def test_out_of_memory_ends_the_search_at_the_best_size_measured():
    search = Search(KNOWN)
    search.start()
    search.learn(16, 100.0, None, 9000)
    search.learn(32, 180.0, None, 8000)
    choice = search.wall(64, 32)
    assert (choice.batch_size, choice.settled) == (32, True)
    assert choice.reason == "settled at 32: a batch of 64 ran out of memory"


def test_prompts_that_no_longer_fill_a_larger_round_are_shared_out_evenly():
    search = Search(Known(prompts=300, ranks=2, tokens_per_row=200))
    search.start()
    choice = search.learn(16, 100.0, None, 50)
    assert (choice.batch_size, choice.settled) == (25, True)


def test_speedup_compares_only_with_one_rank_at_the_same_batch_size():
    def period(size, ranks, tokens):
        return KnobPeriod(
            batch_size=size, active_ranks=ranks, shares={rank: RankShare(1, tokens, 1.0) for rank in range(ranks)}
        )

    table = scaling([period(8, 1, 50), period(4, 1, 100), period(4, 2, 90), period(4, 2, 90)], 4)
    assert [(row.active_ranks, row.tokens_per_second, row.speedup, row.efficiency) for row in table] == [
        (1, 100.0, 1.0, 1.0),
        (2, 180.0, 1.8, 0.9),
    ]
    assert table[1].batches == 4
    assert scaling([period(4, 2, 90)], 4)[0].speedup is None, "no figure that was not measured"


def test_a_period_has_a_rate_only_when_every_active_rank_has_ended_a_whole_batch():
    period = KnobPeriod(batch_size=4, active_ranks=2).with_batch(0, 100, 2.0, 7)
    assert period.tokens_per_second is None
    period = period.with_batch(1, 60, 2.0, 9)
    assert period.tokens_per_second == 80.0
    assert period.peak_memory_bytes == 9
