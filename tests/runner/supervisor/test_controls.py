"""Turning the knobs of a running job, and what each turn changes."""

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state.periods import KnobPeriod, share_of_batch
from rankdeck.runner.state.settings import settings
from tests.runner.supervisor.in_process import Launch, ready
from tests.runner.supervisor.test_outliving import expected
from tests.runner.supervisor.test_supervisor import PROMPTS, outputs, watch

MANY = [f"prompt {number}" for number in range(80)]


@pytest.fixture(autouse=True)
def slowly(monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.01")


def batches(seen):
    return [message for message in seen if isinstance(message, protocol.BatchStarted)]


@pytest.mark.parametrize(
    ("uuids", "free"), [(("GPU-0", "GPU-1"), (500, 50)), (("GPU-0", "GPU-0"), (100, 100))], ids=["own", "shared"]
)
def test_the_first_size_that_is_chosen_fits_on_the_device_with_the_least_room(tmp_path, uuids, free):
    launch = Launch(tmp_path, prompts=200, batch_size=None)
    for rank, uuid, mebibytes in zip(launch.connect(), uuids, free, strict=True):
        on_gpu = {"device": f"cuda:{rank.number}", "device_uuid": uuid, "memory_free_bytes": mebibytes * 2**20}
        launch.say(rank, msgspec.structs.replace(ready(rank.number), **on_gpu, kv_bytes_per_token=2**20))
    assert launch.state.batch_size == 2, "a row takes about 20 MiB"


def test_a_pause_that_was_asked_for_outlasts_the_trouble_that_came_in_it(tmp_path):
    launch = Launch(tmp_path)
    launch.controls.obey(protocol.Pause())
    launch.controls.set_trouble("the disk is full")
    assert launch.state.paused == "the disk is full"
    launch.controls.set_trouble(None)
    assert (launch.state.paused, launch.controls.paused) == ("asked for", True)
    launch.controls.obey(protocol.Resume())
    assert (launch.state.paused, launch.controls.paused) == (None, False)


@pytest.mark.parametrize("auto", [True, False])
def test_after_a_sweep_that_found_nothing_a_size_is_searched_for_again_if_it_was_before(tmp_path, auto):
    launch = Launch(tmp_path, prompts=1000, batch_size=None if auto else 7)
    launch.connect_ready()
    assert launch.state.auto is auto
    plan = SweepPlan(batch_sizes=[2], ranks=[1])
    for command in (protocol.StartSweep(plan=plan), protocol.StartSweep(plan=None)):
        launch.controls.obey(command)
    assert launch.state.auto is auto
    assert (launch.state.batch_size, launch.state.active_ranks) == (64 if auto else 7, 2)


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
    table = settings(state.periods)
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


def test_a_paused_run_that_is_stopped_has_continuous_ranks_end_the_rows_in_flight(tmp_path):
    launch = Launch(tmp_path, prompts=60, engine="continuous")
    rank, _ = launch.connect_ready("continuous")

    def last_limit() -> int:
        return [order.rows for order in rank.peer.sent if isinstance(order, protocol.Limit)][-1]

    launch.controls.obey(protocol.Pause())
    launch.pool.hand_out()
    assert last_limit() == 0
    launch.pool.stop()
    assert last_limit() == 3
    assert not launch.pool.leaving, "rows are in flight still"


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


async def test_a_size_that_auto_chose_untried_and_that_does_not_fit_is_halved_for_all_ranks(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_ROOM", "6")
    started = launch(PROMPTS, batch_size=None)
    state, seen = await watch(started)
    sizes = [message for message in seen if isinstance(message, protocol.BatchSizeChanged)]
    assert [size.batch_size for size in sizes] == [13, 6], "once, although both ranks ran out of memory"
    assert sizes[1].reason in {f"settled at 6: a batch of {rows} ran out of memory" for rows in (12, 13)}
    assert (state.completed, state.ended.exit_status) == (25, 0)


async def test_a_size_that_has_been_done_is_lowered_for_the_rank_alone_that_ran_out_of_memory(launch):
    prompts = [f"prompt {number}" for number in range(150)]
    prompts[140] = "!huge"
    started = launch(prompts, batch_size=None, order="input")
    state, seen = await watch(started)
    assert state.periods[0].reason == "150 prompts are 2 even rounds of 38 per rank"
    assert [message.batch_size for message in seen if isinstance(message, protocol.BatchSizeChanged)] == [38]
    assert any(isinstance(message, protocol.RankCapped) for message in seen)
    assert (state.completed, state.failed) == (149, 1)


async def test_auto_grows_while_it_pays_and_settles_with_a_reason(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.3")
    started = launch([f"p{number}" for number in range(2000)], batch_size=None)
    state, seen = await watch(started)
    sizes = [message.batch_size for message in seen if isinstance(message, protocol.BatchSizeChanged)]
    assert sizes[:3] == [64, 128, 256], "rows cost a stand-in rank no time: larger always pays"
    assert not state.auto
    assert "one even round" in state.periods[-1].reason
    assert run_directory.read_run_file(started.directory).summary.completed == 2000


def test_speedup_compares_only_with_one_rank_at_the_same_batch_size():
    def period(size, ranks, tokens):
        return KnobPeriod(
            batch_size=size, active_ranks=ranks, shares={rank: share_of_batch(tokens, 1.0) for rank in range(ranks)}
        )

    table = settings([period(8, 1, 50), period(4, 1, 100), period(4, 2, 90), period(4, 2, 90)])
    assert [(*row.setting, row.tokens_per_second, row.speedup, row.efficiency) for row in table] == [
        (4, 1, 100.0, 1.0, 1.0),
        (4, 2, 180.0, 1.8, 0.9),
        (8, 1, 50.0, 1.0, 1.0),
    ]
    assert table[1].batches == 4
    assert settings([period(4, 2, 90)])[0].speedup is None, "no figure that was not measured"


def test_a_period_has_a_rate_only_when_every_active_rank_has_ended_a_whole_batch():
    period = KnobPeriod(batch_size=4, active_ranks=2).with_batch(0, share_of_batch(100, 2.0), 7)
    assert period.tokens_per_second is None
    period = period.with_batch(1, share_of_batch(60, 2.0), 9)
    assert period.tokens_per_second == 80.0
    assert period.peak_memory_bytes == 9
