"""A sweep: every setting measured on models that were loaded once, whatever happens on the way."""

import os
import signal

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.forecast.forecast import eta_seconds
from rankdeck.runner.protocol.sweep_plan import SweepPlan, TrialRecord
from rankdeck.runner.state import RunState, apply
from rankdeck.runner.supervisor.sweeper import order_of
from rankdeck.runner.sweep.verdict import cells, summarise_sweep
from rankdeck.tui.sources import runs
from tests.runner.supervisor.in_process import Launch, result
from tests.runner.supervisor.test_outliving import expected
from tests.runner.supervisor.test_supervisor import outputs, rank_pids, watch

PROMPTS = [f"prompt number {number}" for number in range(20)]
QUICK = {"repeats": 2, "least_rounds": 2, "least_seconds": 0.0}


def plan(**changes) -> SweepPlan:
    return SweepPlan(**{"batch_sizes": [1, 4], "ranks": [1, 2], **QUICK, **changes})


async def run_through(started, *, when=None):
    """Follow a sweep to its end: its last state, and everything that happened, from the journal."""
    state, _ = await watch(started, when=when)
    return state, list(run_directory.read_events(started.directory))


def of_kind(seen, kind):
    return [message for message in seen if isinstance(message, kind)]


def settings_of(records):
    return sorted((record.trial.active_ranks, record.trial.batch_size) for record in records)


async def test_every_setting_is_measured_so_often_on_ranks_that_were_launched_once(launch):
    started = launch(PROMPTS, sweep=plan())
    state, seen = await run_through(started)
    assert started.process.wait(10) == 0
    assert len(of_kind(seen, protocol.RanksLaunched)) == 1
    assert len(of_kind(seen, protocol.RankReady)) == 2
    records = state.sweep.records
    assert settings_of(records) == sorted([(1, 1), (1, 4), (2, 1), (2, 4)] * 2)
    assert {record.outcome for record in records} == {"measured"}
    for record in records:
        assert record.result.rounds == 2
        assert record.result.batches == 2 * record.trial.active_ranks
        assert record.result.output_tokens == 4 * record.result.batches * record.trial.batch_size
        assert len(record.result.rank_tokens_per_second) == record.trial.active_ranks
        assert record.result.tokens_per_second > 0


async def test_a_warm_up_of_every_rank_comes_before_and_is_not_measured(launch):
    started = launch(PROMPTS, sweep=plan(batch_sizes=[4], ranks=[2], repeats=1))
    state, seen = await run_through(started)
    batches = of_kind(seen, protocol.BatchStarted)
    assert [batch.warm_up for batch in batches] == [True] * 2 + [False] * 4
    assert not any(batch.kept for batch in batches)
    last_warm_up_over = seen.index(of_kind(seen, protocol.BatchFinished)[1])
    assert seen.index(of_kind(seen, protocol.TrialWarm)[0]) > last_warm_up_over
    assert sum(point.batches for point in state.costs) == 4


async def test_the_answers_of_a_plain_sweep_are_thrown_away_and_its_tokens_counted(launch):
    started = launch(PROMPTS, sweep=plan(batch_sizes=[4], ranks=[1], repeats=1), ranks=1)
    state, _ = await run_through(started)
    assert outputs(started.directory) == []
    assert state.completed == 0
    assert state.ended.summary.output_tokens == (1 + 2) * 4 * 4  # warm-up and two rounds of four prompts, four tokens


async def test_the_least_seconds_add_whole_rounds(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.01")
    started = launch(PROMPTS, sweep=plan(batch_sizes=[2], ranks=[2], repeats=1, least_seconds=0.3))
    state, _ = await run_through(started)
    (record,) = state.sweep.records
    assert record.result.rounds > 2
    assert record.result.batches == 2 * record.result.rounds
    assert record.result.seconds > 0.25
    assert record.result.step_ms == pytest.approx((10, 10, 10))


async def test_with_outputs_the_answers_are_kept_and_what_is_left_is_done_at_the_best_setting(launch):
    prompts = [f"prompt {number}" for number in range(150)]
    started = launch(prompts, sweep=plan(outputs=True))
    state, seen = await run_through(started)
    assert [record.text for record in outputs(started.directory)] == expected(prompts)
    assert (state.completed, state.ended.exit_status) == (150, 0)
    assert state.sweep.settled == "all trials are over"
    settled = seen.index(of_kind(seen, protocol.SweepSettled)[0])
    (size,) = of_kind(seen[settled:], protocol.BatchSizeChanged)
    chosen = summarise_sweep(state.sweep).chosen
    assert size.batch_size == chosen.batch_size
    assert size.reason.startswith("best of the sweep")
    assert state.active_ranks == chosen.active_ranks


async def test_when_the_prompts_run_out_the_sweep_ends_with_what_there_is(launch):
    started = launch(PROMPTS, sweep=plan(outputs=True))
    state, _ = await run_through(started)
    assert 0 < len(state.sweep.records) < 8
    assert "too few for trial" in state.sweep.settled
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)


async def test_out_of_memory_is_a_result_and_larger_sizes_of_that_row_are_skipped(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_ROOM", "4")
    started = launch(PROMPTS, sweep=plan(batch_sizes=[2, 4, 8, 16]))
    state, _ = await run_through(started)
    assert state.ended.status == "completed"
    found = {(cell.active_ranks, cell.batch_size): cell.outcome for cell in cells(state.sweep)}
    for ranks in (1, 2):
        assert found[ranks, 2] == found[ranks, 4] == "measured"
        assert "out_of_memory" in (found[ranks, 8], found[ranks, 16])
    tried = [record for record in state.sweep.records if record.outcome == "out_of_memory"]
    assert len(tried) <= 4, "a size beyond the wall is tried once at most"
    assert len(state.sweep.records) == 16


async def test_a_batch_that_raises_costs_its_trial_and_shows_in_the_exit_status(launch):
    started = launch(["fine", "!raise"], sweep=plan(batch_sizes=[1, 2], ranks=[1], repeats=1), ranks=1)
    state, _ = await run_through(started)
    outcomes = {record.trial.batch_size: record.outcome for record in state.sweep.records}
    assert outcomes[2] == "failed"
    assert "no such word" in next(r.reason for r in state.sweep.records if r.outcome == "failed")
    assert state.ended.exit_status == 1


async def test_a_lost_rank_costs_one_trial_and_the_others_go_on_after_the_relaunch(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    started = launch(PROMPTS, sweep=plan(ranks=[2]))
    killed = []

    async def kill(message, source):
        if isinstance(message, protocol.TrialWarm) and not killed:
            killed.append(message.trial)
            os.kill(rank_pids(started.directory)[0], signal.SIGKILL)

    state, seen = await run_through(started, when=kill)
    assert len(of_kind(seen, protocol.RanksLaunched)) == 2
    lost = [record for record in state.sweep.records if record.outcome == "failed"]
    assert [record.trial for record in lost] == killed
    assert "ranks were lost" in lost[0].reason
    assert len(state.sweep.records) == 4


async def test_a_sweep_that_was_stopped_is_resumed_where_it_was(launch):
    started = launch(PROMPTS, sweep=plan(repeats=3))

    async def stop(message, source):
        if isinstance(message, protocol.TrialFinished) and message.record.trial.number == 5:
            await source.send(protocol.Stop(now=False))

    state, _ = await run_through(started, when=stop)
    assert state.ended.exit_status == 130
    before = run_directory.read_run_file(started.directory)
    assert before.status == "stopped"
    assert 5 <= len(before.sweep.records) < 12
    assert before.sweep.best is not None
    started.process.wait(10)

    again = start.resume(started.directory, {})
    state, _ = await run_through(again)
    again.process.wait(10)
    run = run_directory.read_run_file(started.directory)
    assert run.status == "completed"
    assert [record.trial for record in run.sweep.records] == order_of(plan(repeats=3))
    assert run.sweep.records[:5] == before.sweep.records[:5]
    assert run.sweep == summarise_sweep(state.sweep)


@pytest.mark.parametrize("changes", [{}, {"batch_size": 3}])
async def test_a_sweep_that_had_settled_is_not_measured_again_and_the_rest_is_done_at_what_it_chose(
    launch, monkeypatch, changes
):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    prompts = [f"prompt {number}" for number in range(200)]
    started = launch(prompts, sweep=plan(outputs=True), batch_size=None)

    async def stop(message, source):
        if isinstance(message, protocol.SweepSettled):
            await source.send(protocol.Stop(now=False))

    before, _ = await run_through(started, when=stop)
    started.process.wait(10)
    assert before.sweep.settled == "all trials are over"
    assert before.ended.status == "stopped"
    again = start.resume(started.directory, changes)
    _, seen = await run_through(again)
    assert again.process.wait(10) == 0
    assert len(of_kind(seen, protocol.SweepStarted)) == 1
    assert len(of_kind(seen, protocol.TrialFinished)) == 8
    run = run_directory.read_run_file(started.directory)
    assert run.sweep.records == list(before.sweep.records)
    chosen = of_kind(seen, protocol.BatchSizeChanged)[-1]
    assert chosen.reason == "as asked for" if changes else chosen.reason.startswith("best of the sweep")
    assert chosen.batch_size == changes.get("batch_size", run.sweep.chosen.batch_size)
    assert [record.text for record in outputs(started.directory)] == expected(prompts)


async def test_a_sweep_that_was_over_when_another_was_begun_by_hand_is_not_measured_again(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    prompts = [f"prompt {number}" for number in range(200)]
    by_hand = plan(batch_sizes=[3], ranks=[1], repeats=1, outputs=True)
    started = launch(prompts, sweep=plan(outputs=True), batch_size=None)
    settled = []

    async def another_then_stop(message, source):
        if isinstance(message, protocol.SweepSettled):
            settled.append(message)
            await source.send(protocol.StartSweep(plan=by_hand) if len(settled) == 1 else protocol.Stop(now=False))

    await run_through(started, when=another_then_stop)
    started.process.wait(10)
    again = start.resume(started.directory, {})
    state, seen = await run_through(again)
    assert again.process.wait(10) == 0
    assert len(of_kind(seen, protocol.SweepStarted)) == 2
    assert state.sweep.plan == by_hand
    assert not state.sweeping
    assert [record.text for record in outputs(started.directory)] == expected(prompts)


async def stopped_sweep(launch, **settings):
    """A sweep without outputs that was stopped after its second trial."""
    started = launch(PROMPTS, sweep=plan(repeats=3), batch_size=None, **settings)

    async def stop(message, source):
        if isinstance(message, protocol.TrialFinished) and message.record.trial.number == 2:
            await source.send(protocol.Stop(now=False))

    await run_through(started, when=stop)
    assert started.process.wait(10) == 130
    return started


async def test_a_sweep_that_has_trials_is_not_resumed_with_another_model(launch, standin_model):
    started = await stopped_sweep(launch)
    (standin_model / "config.json").write_text('{"other": 1}')
    with pytest.raises(start.InputError, match="of the model has changed since the run began"):
        start.resume(started.directory, {})


async def test_a_sweep_that_has_trials_is_not_resumed_with_settings_that_they_depend_on(launch):
    started = await stopped_sweep(launch, dtype="float32")
    with pytest.raises(start.InputError) as refused:
        start.resume(
            started.directory, {"dtype": "bfloat16", "engine": "continuous", "max_restarts": 7, "patience": 9.0}
        )
    assert [str(problem) for problem in refused.value.problems] == [
        "--dtype: the trials so far ran with float32; leave it out, or start a new sweep",
        "--engine: the trials so far ran with auto; leave it out, or start a new sweep",
    ]
    again = start.resume(started.directory, {"dtype": "float32", "max_restarts": 7})
    state, _ = await run_through(again)
    assert again.process.wait(10) == 0
    assert len(state.sweep.records) == 12


async def test_ranks_are_not_launched_again_for_trials_of_another_model(launch, standin_model, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    started = launch(PROMPTS, sweep=plan(repeats=3), batch_size=None)
    acted = []

    async def change_and_kill(message, source):
        if isinstance(message, protocol.TrialFinished) and not acted:
            acted.append(True)
            (standin_model / "config.json").write_text('{"other": 1}')
            os.kill(rank_pids(started.directory)[0], signal.SIGKILL)

    state, _ = await run_through(started, when=change_and_kill)
    assert started.process.wait(20) == 2
    assert "config.json of the model has changed since the run began" in state.ended.cause


async def test_a_sweep_with_nothing_left_to_do_keeps_its_table_when_it_is_taken_up(launch):
    prompts = [f"prompt {number}" for number in range(150)]
    started = launch(prompts, sweep=plan(outputs=True), batch_size=None)
    await run_through(started)
    started.process.wait(10)
    before = run_directory.read_run_file(started.directory)
    # As a supervisor leaves it that is killed just before its end.
    run_directory.write_run_file(
        started.directory, msgspec.structs.replace(before, status="running", sweep=None, summary=None, exit_status=None)
    )
    state, seen = await run_through(start.resume(started.directory, {}))
    assert state.ended.status == "completed"
    assert len(of_kind(seen, protocol.RanksLaunched)) == 1, "no rank is needed"
    assert run_directory.read_run_file(started.directory).sweep.records == before.sweep.records


async def test_a_pause_inside_a_trial_has_it_measured_afresh(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    started = launch(PROMPTS, sweep=plan(ranks=[2], batch_sizes=[2], repeats=1))
    paused = []

    async def pause(message, source):
        if isinstance(message, protocol.TrialWarm) and not paused:
            paused.append(message)
            await source.send(protocol.Pause())
        elif isinstance(message, protocol.Paused):
            await source.send(protocol.Resume())

    state, seen = await run_through(started, when=pause)
    assert len(of_kind(seen, protocol.TrialStarted)) == 2
    assert [record.outcome for record in state.sweep.records] == ["measured"]


async def test_a_running_job_is_swept_by_a_command_and_goes_on_at_the_best(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.01")
    prompts = [f"prompt {number}" for number in range(200)]
    started = launch(prompts, batch_size=2)
    asked = []

    async def sweep(message, source):
        if isinstance(message, protocol.BatchFinished) and not asked:
            asked.append(message)
            wanted = plan(batch_sizes=[1, 8], repeats=1, outputs=True)
            await source.send(protocol.StartSweep(plan=wanted))
            await source.send(protocol.SetBatchSize(batch_size=3))  # a sweep sets the knobs itself

    state, seen = await run_through(started, when=sweep)
    assert len(state.sweep.records) == 4
    assert [record.text for record in outputs(started.directory)] == expected(prompts)
    assert not any(change.batch_size == 3 for change in of_kind(seen, protocol.BatchSizeChanged))
    assert state.batch_size == summarise_sweep(state.sweep).chosen.batch_size


async def test_a_sweep_in_a_run_can_be_ended(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.01")
    prompts = [f"prompt {number}" for number in range(120)]
    started = launch(prompts, sweep=plan(outputs=True, repeats=9))

    async def end(message, source):
        if isinstance(message, protocol.TrialFinished) and message.record.trial.number == 2:
            await source.send(protocol.StartSweep(plan=None))

    state, _ = await run_through(started, when=end)
    assert len(state.sweep.records) in (2, 3)
    assert state.sweep.settled == "by hand"
    assert [record.text for record in outputs(started.directory)] == expected(prompts)


async def test_a_sweep_that_keeps_no_answers_and_is_ended_has_its_figures_and_is_told_from_one_that_is_complete(launch):
    started = launch(PROMPTS, sweep=plan(repeats=9))

    async def end(message, source):
        if isinstance(message, protocol.TrialFinished) and message.record.trial.number == 2:
            await source.send(protocol.StartSweep(plan=None))

    state, _ = await run_through(started, when=end)
    assert started.process.wait(10) == 0
    assert state.sweep.ended_early
    run = run_directory.read_run_file(started.directory)
    assert (run.status, run.sweep.left) == ("completed", 36 - len(run.sweep.records))
    assert run.sweep.chosen is not None
    (listed,) = runs.recent()
    assert listed.status == "ended early"


async def test_prompts_that_run_out_inside_a_trial_end_it_whatever_seconds_are_wanted(launch):
    started = launch(PROMPTS, sweep=plan(outputs=True, batch_sizes=[2], ranks=[2], repeats=9, least_seconds=60.0))
    state, _ = await run_through(started)
    assert "too few for trial" in state.sweep.settled
    assert state.sweep.records[0].result.rounds == 5
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)


async def test_a_prompt_that_raises_in_a_sweep_that_keeps_answers_costs_one_trial_and_one_prompt(launch):
    prompts = [f"prompt {number}" for number in range(100)]
    prompts[3] = "!raise"
    started = launch(prompts, sweep=plan(outputs=True, batch_sizes=[2], repeats=4))
    state, _ = await run_through(started)
    outcomes = [record.outcome for record in state.sweep.records]
    assert sorted(outcomes) == ["failed", *["measured"] * 7]
    assert (state.completed, state.failed) == (99, 1)
    assert [record.index for record in outputs(started.directory) if record.error] == [3]


async def test_rows_that_lose_their_ranks_twice_are_not_tried_larger_and_the_sweep_ends(launch, monkeypatch):
    started = launch(["!die", "fine"], sweep=plan(batch_sizes=[2, 4, 8], ranks=[1], repeats=2), ranks=1, max_restarts=0)
    state, seen = await run_through(started)
    outcomes = [record.outcome for record in state.sweep.records]
    assert len(outcomes) == 6
    assert outcomes.count("failed") >= 2
    assert "skipped" in outcomes
    assert len(of_kind(seen, protocol.RanksLaunched)) == 1 + outcomes.count("failed")
    assert state.ended.exit_status == 1


async def test_a_sweep_that_makes_no_sense_is_not_started_and_the_log_says_why(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    started = launch([f"prompt {number}" for number in range(60)], batch_size=2)
    asked = []

    async def ask(message, source):
        if isinstance(message, protocol.BatchFinished) and not asked:
            asked.append(message)
            await source.send(protocol.StartSweep(plan=plan(ranks=[3], outputs=True)))

    state, seen = await run_through(started, when=ask)
    assert not of_kind(seen, protocol.SweepStarted)
    assert any("no sweep is started: --ranks" in line.text for line in state.log)
    assert state.completed == 60


async def test_a_sweep_that_found_nothing_leaves_the_knobs_as_they_were(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    prompts = [f"prompt {number}" for number in range(120)]
    started = launch(prompts, batch_size=5)
    done = []

    async def turn(message, source):
        if isinstance(message, protocol.BatchFinished) and not done:
            done.append(message)
            await source.send(protocol.SetActiveRanks(active_ranks=1))
            await source.send(protocol.StartSweep(plan=plan(outputs=True)))
            await source.send(protocol.StartSweep(plan=None))

    state, seen = await run_through(started, when=turn)
    assert state.sweep.settled == "by hand"
    assert (state.batch_size, state.active_ranks, state.auto) == (5, 1, False)
    assert of_kind(seen, protocol.BatchSizeChanged)[-1].reason == "as before the sweep"
    assert [record.text for record in outputs(started.directory)] == expected(prompts)


async def test_a_run_resumed_after_it_was_stopped_inside_a_sweep_is_an_ordinary_run(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    prompts = [f"prompt {number}" for number in range(120)]
    started = launch(prompts, batch_size=2)

    async def sweep_and_stop(message, source):
        if isinstance(message, protocol.BatchFinished) and message.batch == 1:
            await source.send(protocol.StartSweep(plan=plan(outputs=True, repeats=5)))
        elif isinstance(message, protocol.TrialFinished) and message.record.trial.number == 2:
            await source.send(protocol.Stop(now=False))

    state, _ = await run_through(started, when=sweep_and_stop)
    assert state.sweep.settled is None
    assert state.sweep.current is None, "there is no current trial in a run that has ended"
    started.process.wait(10)
    again = start.resume(started.directory, {})
    state, _ = await run_through(again)
    assert not state.sweeping
    assert state.progress == 1
    assert [record.text for record in outputs(started.directory)] == expected(prompts)


def test_sizes_that_ran_out_of_memory_before_a_sweep_was_stopped_are_not_tried_when_it_is_resumed(tmp_path):
    planned = plan(batch_sizes=[1, 4, 6], ranks=[1])
    trials = order_of(planned)
    too_large = next(trial for trial in trials if trial.batch_size == 4)
    in_process = Launch(tmp_path, ranks=1, sweep=planned)
    in_process.events.emit(protocol.SweepStarted(plan=planned, trials=trials))
    in_process.events.emit(
        protocol.TrialFinished(record=TrialRecord(trial=too_large, outcome="out_of_memory", reason="memory ran out"))
    )
    (rank,) = in_process.connect_ready()
    done = 0
    while done < len(rank.peer.work):
        work, done = rank.peer.work[done], done + 1
        in_process.say(rank, protocol.BatchFinished(rank=0, batch=work.batch, result=result(len(work.prompts))))
    assert {len(work.prompts) for work in rank.peer.work} == {1}
    ends = {record.trial.number: record.outcome for record in in_process.state.sweep.records}
    assert ends == {
        trial.number: "measured" if trial.batch_size == 1 else "out_of_memory" if trial == too_large else "skipped"
        for trial in trials
    }


async def test_the_figures_of_a_resumed_sweep_hold_all_that_it_did(launch):
    started = launch(PROMPTS, sweep=plan(repeats=3))

    async def stop(message, source):
        if isinstance(message, protocol.TrialFinished) and message.record.trial.number == 4:
            await source.send(protocol.Stop(now=False))

    before, _ = await run_through(started, when=stop)
    started.process.wait(10)
    state, _ = await run_through(start.resume(started.directory, {}))
    summary = state.ended.summary
    assert summary.output_tokens == sum(rank.output_tokens for rank in summary.ranks)
    assert summary.output_tokens > before.ended.summary.output_tokens


async def test_the_summary_of_a_sweep_that_keeps_answers_counts_what_outputs_hold(launch):
    prompts = [f"prompt {number}" for number in range(150)]
    started = launch(prompts, sweep=plan(outputs=True))
    state, _ = await run_through(started)
    records = outputs(started.directory)
    assert state.ended.summary.output_tokens == sum(record.output_tokens for record in records)
    assert state.ended.summary.prompt_tokens == sum(record.prompt_tokens for record in records)


async def test_the_end_of_a_sweep_in_a_long_run_is_told_from_its_trials_alone(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    started = launch(PROMPTS, sweep=plan(ranks=[2], repeats=2))
    told = []

    async def look(message, source):
        if isinstance(message, protocol.TrialFinished):
            told.append(message)

    state, seen = await run_through(started, when=look)
    took = state.sweep.took
    assert sorted(took) == [1, 2, 3, 4]
    halfway = RunState()
    for event in seen:
        halfway = apply(halfway, event)
        if isinstance(event, protocol.TrialFinished) and event.record.trial.number == 2:
            break
    much_later = msgspec.structs.replace(halfway, first_batch_at=halfway.now - 3600)
    assert eta_seconds(much_later) == eta_seconds(halfway) == pytest.approx(took[1] + took[2])


def test_the_order_is_shuffled_and_always_the_same():
    wanted = SweepPlan(batch_sizes=[1, 2, 4, 8], ranks=[1, 2], repeats=3)
    order = order_of(wanted)
    assert order == order_of(wanted)
    assert [trial.number for trial in order] == list(range(1, 25))
    by_repeat = [[(t.active_ranks, t.batch_size) for t in order if t.repeat == repeat] for repeat in (1, 2, 3)]
    assert sorted(by_repeat[0]) == sorted(by_repeat[1]) == sorted(by_repeat[2])
    assert by_repeat[0] != by_repeat[1]
