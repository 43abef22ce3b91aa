"""What a run decides on its way: relaunches, stops, how it ends, with which exit status. Its launches are scripted."""

import asyncio
import errno
import os
import signal
from types import SimpleNamespace

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.inputs.demo_model import ModelError
from rankdeck.runner.inputs.frozen_prompts import PromptError
from rankdeck.runner.inputs.prompts.problems import PromptProblem
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan, Trial, TrialRecord
from rankdeck.runner.state.costs import CostPoint
from rankdeck.runner.supervisor import run
from rankdeck.runner.supervisor.launch import Loss
from rankdeck.runner.supervisor.outputs import Finished, Outputs
from rankdeck.runner.supervisor.run import Ending, Supervisor
from rankdeck.runner.supervisor.ticker import Ticker


def record(index: int, **changes) -> OutputRecord:
    values = {
        "index": index, "id": str(index), "prompt": "p", "text": "t", "prompt_tokens": 2, "output_tokens": 3,
        "finish_reason": "stop", "rank": 0, "batch": 1,
    }  # fmt: skip
    return OutputRecord(**{**values, **changes})


class Scripted:
    """The launches of a run: `acts` are what happens in each until it is over; each returns its loss."""

    def __init__(self) -> None:
        self.acts: list = []
        self.launches: list[SimpleNamespace] = []
        self.start_fails: list[OSError] = []

    def __call__(self, pool, directory, config, model, command, parent, events, *, ready_before, engine_hint):
        number = len(self.launches)
        script = self

        class Launch(SimpleNamespace):
            async def start(self):
                if script.start_fails:
                    raise script.start_fails.pop(0)

            async def over(self):
                return await script.acts[number](self)

            async def end(self):
                self.ends += 1

            async def wait(self, seconds):
                self.waited.append(seconds)

            def look_at_logs(self, **_):
                pass

        told = {"ready_before": ready_before, "engine_hint": engine_hint}
        launch = Launch(pool=pool, model=model, **told, ends=0, waited=[])
        self.launches.append(launch)
        return launch


@pytest.fixture
def scripted(monkeypatch) -> Scripted:
    script = Scripted()
    monkeypatch.setattr(run, "RankLaunch", script)
    monkeypatch.setattr(run, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(run, "STOP_SECONDS", 12.0)

    async def found(*_):
        return "the/model"

    async def never(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(run, "find_model", found)
    monkeypatch.setattr(Ticker, "sample", never)
    monkeypatch.setattr(start, "start_supervisor", lambda _: None)
    return script


@pytest.fixture
def begun(tmp_path, standin_model, scripted):
    """A run of three prompts that has not begun."""

    def go(prompts: int = 3, **settings) -> Supervisor:
        (tmp_path / "p.txt").write_text("".join(f"prompt {number}\n" for number in range(prompts)))
        values = {"prompts": str(tmp_path / "p.txt"), "model": str(standin_model), "device": "cpu", "ranks": 2}
        config = RunConfig(**{**values, **settings})
        directory = start.launch(config, run_dir=tmp_path / "run").directory
        return Supervisor(directory, run_directory.read_run_file(directory), run_directory.Hold(directory))

    return go


def answers(supervisor: Supervisor, *indices: int, **changes) -> None:
    for index in indices:
        supervisor._outputs.keep(record(index, **changes))


def all_done(supervisor: Supervisor, **changes):
    async def act(_):
        answers(supervisor, *range(3), **changes)

    return act


def lost(loss: Loss, *, ready: bool = True, before=None):
    async def act(launch):
        launch.pool.ready = ready
        if before is not None:
            before(launch)
        return loss

    return act


DIED = Loss(1, "it died", hopeless=False)


async def through(supervisor: Supervisor) -> int:
    async with asyncio.timeout(30):
        return await supervisor.run()


def left(supervisor: Supervisor):
    return run_directory.read_run_file(supervisor._directory)


def events(supervisor: Supervisor, kind: type) -> list:
    return [event for event in run_directory.read_events(supervisor._directory) if isinstance(event, kind)]


# --- a run that goes well -------------------------------------------------------------------------


async def test_a_run_with_a_record_for_every_prompt_is_complete(begun, scripted):
    supervisor = begun()
    scripted.acts = [all_done(supervisor)]
    assert await through(supervisor) == 0
    found = left(supervisor)
    assert (found.status, found.exit_status, found.cause) == ("completed", 0, None)
    assert (found.summary.completed, found.summary.output_tokens, found.sweep) == (3, 9, None)
    assert found.ended_at is not None
    (launched,) = events(supervisor, protocol.RanksLaunched)
    assert (launched.attempt, launched.world_size, launched.restarts_left) == (1, 2, supervisor._config.max_restarts)
    (ended,) = events(supervisor, protocol.RunEnded)
    assert (ended.status, ended.exit_status, ended.cause, ended.summary) == ("completed", 0, None, found.summary)
    (one,) = scripted.launches
    assert (one.model, one.ready_before, one.ends) == ("the/model", False, 1)
    assert not run_directory.socket_path(supervisor._directory).exists()


async def test_error_records_are_in_the_exit_status(begun, scripted):
    supervisor = begun()

    async def act(_):
        answers(supervisor, 0, 1)
        supervisor._outputs.give_up(2, "no room", 0)

    scripted.acts = [act]
    assert await through(supervisor) == 1
    assert left(supervisor).status == "completed"


async def test_a_run_without_a_single_prompt_left_launches_nothing(begun, scripted, monkeypatch):
    supervisor = begun()
    answers(supervisor, 0, 1, 2)
    assert await through(supervisor) == 0
    assert scripted.launches == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_each_signal_that_asks_for_an_end_stops_the_run_now(begun, scripted, number):
    supervisor = begun()

    async def act(_):
        assert run_directory.socket_path(supervisor._directory).exists(), "who comes meanwhile is heard"
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    scripted.acts = [act]
    try:
        assert await through(supervisor) == 130
    finally:
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(each)
    assert [one.now for one in events(supervisor, protocol.Stopping)] == [True]


async def test_what_was_mended_and_remarked_is_in_the_log_of_a_new_run(begun, scripted):
    supervisor = begun()
    supervisor._run_file = msgspec.structs.replace(supervisor._run_file, remarks=["four ranks on two cores"])
    supervisor._resume_point.mended.append("a line was cut off")
    scripted.acts = [all_done(supervisor)]
    assert await through(supervisor) == 0
    said = [(line.source, line.text) for line in events(supervisor, protocol.LogLine)]
    assert said[:2] == [
        ("supervisor", "mended: a line was cut off"),
        ("supervisor", "warning: four ranks on two cores"),
    ]
    assert isinstance(next(iter(run_directory.read_events(supervisor._directory))), protocol.RunStarted)


# --- ranks that are lost --------------------------------------------------------------------------


async def test_ranks_are_launched_afresh_until_no_restarts_are_left(begun, scripted):
    supervisor = begun(max_restarts=2)
    scripted.acts = [lost(DIED)] * 3
    assert await through(supervisor) == 3
    assert left(supervisor).cause == "rank 1: it died (after 2 restarts)"
    assert left(supervisor).status == "failed"
    launched = events(supervisor, protocol.RanksLaunched)
    assert [(one.attempt, one.restarts_left) for one in launched] == [(1, 2), (2, 1), (3, 0)]
    assert [(one.rank, one.cause) for one in events(supervisor, protocol.RankLost)] == [(1, "it died")] * 3
    assert [launch.ends for launch in scripted.launches] == [1, 1, 2]
    assert all(launch.pool._closed for launch in scripted.launches)
    said = [line.text for line in events(supervisor, protocol.LogLine)]
    assert [text for text in said if "afresh" in text] == [
        "rank 1: it died; launching the ranks afresh, 1 restarts left after this",
        "rank 1: it died; launching the ranks afresh, 0 restarts left after this",
    ]


async def test_without_restarts_the_first_loss_ends_the_run_in_its_own_words(begun, scripted):
    supervisor = begun(max_restarts=0)
    scripted.acts = [lost(DIED)]
    assert await through(supervisor) == 3
    assert left(supervisor).cause == "rank 1: it died"


async def test_a_loss_that_would_come_again_ends_the_run_though_restarts_are_left(begun, scripted):
    supervisor = begun(max_restarts=5)
    scripted.acts = [lost(DIED), lost(Loss(0, "no room", hopeless=True))]
    assert await through(supervisor) == 3
    assert left(supervisor).cause == "rank 0: no room (after 1 restarts)"


async def test_a_launch_knows_whether_any_before_it_was_ready(begun, scripted):
    supervisor = begun(max_restarts=3)
    scripted.acts = [lost(DIED, ready=False), lost(DIED), lost(DIED, ready=False), all_done(supervisor)]
    assert await through(supervisor) == 0
    assert [launch.ready_before for launch in scripted.launches] == [False, False, True, True]


async def test_a_loss_after_the_last_record_is_none(begun, scripted):
    supervisor = begun(max_restarts=0)
    scripted.acts = [lost(DIED, before=lambda _: answers(supervisor, 0, 1, 2))]
    assert await through(supervisor) == 0


async def test_a_loss_in_a_trial_costs_the_trial_and_no_restart(begun, scripted):
    plan = SweepPlan(batch_sizes=[1, 2], ranks=[1], repeats=1, least_rounds=1, least_seconds=0.0)
    supervisor = begun(max_restarts=0, sweep=plan)

    def in_a_trial(_):
        supervisor._controls.begin()
        assert supervisor._controls.next_batch(0) is not None

    async def nothing_left(_):
        assert supervisor._controls.next_batch(0) is None

    scripted.acts = [lost(DIED, before=in_a_trial)] * 2 + [nothing_left]
    assert await through(supervisor) == 1, "a failed trial shows in the exit status"
    found = left(supervisor)
    assert (found.status, len(found.sweep.records)) == ("completed", 2)
    assert [one.restarts_left for one in events(supervisor, protocol.RanksLaunched)] == [0, 0, 0]


async def test_ranks_that_leave_with_records_missing_from_the_file_are_a_loss(begun, scripted):
    supervisor = begun(max_restarts=1)

    async def act(_):
        answers(supervisor, 0)

    scripted.acts = [act, all_done(supervisor)]
    assert await through(supervisor) == 0
    (said,) = [line.text for line in events(supervisor, protocol.LogLine) if "afresh" in line.text]
    assert said == ("2 records were lost from outputs.jsonl; launching the ranks afresh, 0 restarts left after this")


async def test_a_launch_that_finds_no_space_is_tried_again_and_the_run_says_so(begun, scripted):
    supervisor = begun()
    found = {errno.ENOSPC: "No space left", errno.EDQUOT: "no quota", errno.EROFS: "read-only"}
    scripted.start_fails = [OSError(number, said) for number, said in found.items()]
    scripted.acts = [all_done(supervisor)]
    assert await through(supervisor) == 0
    paused = events(supervisor, protocol.Paused)
    assert paused[0].reason.startswith("the ranks cannot be launched: ")
    assert "No space left" in paused[0].reason
    assert not paused[0].asked
    assert len(scripted.launches) == 1


async def test_a_launch_that_fails_in_another_way_ends_the_run(begun, scripted):
    supervisor = begun()
    scripted.start_fails = [OSError(errno.ENOENT, "no accelerate")]
    assert await through(supervisor) == 3
    assert "no accelerate" in left(supervisor).cause


# --- the gather of a split run --------------------------------------------------------------------


def gathered(supervisor: Supervisor, *, ended: bool = True, wrong: bool = False):
    async def act(launch):
        gather = launch.pool.gather
        for index in range(3):
            gather.sent(record(index))
            answers(supervisor, index)
        records = [(index, protocol.record_digest(record(index))) for index in range(3)]
        if wrong:
            records[1] = (1, "other")
        gather.add(protocol.Gathered(records=records, last=ended))

    return act


async def test_what_was_gathered_is_compared_with_what_was_sent_and_told(begun, scripted):
    supervisor = begun(dispatch="split")
    scripted.acts = [gathered(supervisor)]
    assert await through(supervisor) == 0
    (checked,) = events(supervisor, protocol.GatherChecked)
    assert (checked.records, checked.differing) == (3, [])


async def test_a_gather_that_brought_something_else_fails_the_run(begun, scripted):
    supervisor = begun(dispatch="split")
    scripted.acts = [gathered(supervisor, wrong=True)]
    assert await through(supervisor) == 3
    assert left(supervisor).cause == "gather_object brought other results than the socket for 1 prompts"
    assert events(supervisor, protocol.GatherChecked)[0].differing == [1]


async def test_a_gather_that_did_not_end_fails_the_run(begun, scripted):
    supervisor = begun(dispatch="split")
    scripted.acts = [gathered(supervisor, ended=False)]
    assert await through(supervisor) == 3
    assert left(supervisor).cause == "every prompt has its record, but gather_object did not finish"


async def test_a_split_run_that_was_stopped_has_no_gather_to_check(begun, scripted):
    supervisor = begun(dispatch="split")

    async def act(launch):
        launch.pool.ready = True
        supervisor.obey(protocol.Stop(now=False))

    scripted.acts = [act]
    assert await through(supervisor) == 130
    assert events(supervisor, protocol.GatherChecked) == []


# --- stops ----------------------------------------------------------------------------------------


async def test_a_stop_after_the_batches_in_flight_is_told_and_hands_out_no_more(begun, scripted):
    supervisor = begun()

    async def act(launch):
        launch.pool.ready = True
        supervisor.obey(protocol.Stop(now=False))
        assert launch.pool.stopping
        assert launch.pool.leaving, "nothing is in flight"
        assert not supervisor._ending.done()

    scripted.acts = [act]
    assert await through(supervisor) == 130
    assert (left(supervisor).status, left(supervisor).cause) == ("stopped", None)
    assert [one.now for one in events(supervisor, protocol.Stopping)] == [False]
    assert "asked to stop after the batches in flight" in [line.text for line in events(supervisor, protocol.LogLine)]


async def test_a_stop_now_drops_what_is_in_flight_and_waits_for_the_ranks_only_so_long(begun, scripted):
    supervisor = begun()

    async def act(launch):
        launch.pool.ready = True
        supervisor.obey(protocol.Stop(now=True))
        assert (launch.pool.stopping, launch.pool.leaving) == (True, True)
        await asyncio.Event().wait()

    scripted.acts = [act]
    assert await through(supervisor) == 130
    assert scripted.launches[0].waited == [12.0]
    assert [one.now for one in events(supervisor, protocol.Stopping)] == [True]
    assert "asked to stop now" in [line.text for line in events(supervisor, protocol.LogLine)]
    assert supervisor._hurry


async def test_a_stop_while_ranks_load_ends_the_run_at_once(begun, scripted):
    supervisor = begun()

    async def act(_):
        supervisor.obey(protocol.Stop(now=False))
        await asyncio.Event().wait()

    scripted.acts = [act]
    assert await through(supervisor) == 130
    assert not supervisor._hurry
    assert scripted.launches[0].waited == []


async def test_a_stop_before_any_launch_ends_the_run_at_once(begun, scripted, monkeypatch):
    supervisor = begun()

    async def looking(*_):
        supervisor.obey(protocol.Stop(now=False))
        await asyncio.Event().wait()

    monkeypatch.setattr(run, "find_model", looking)
    assert await through(supervisor) == 130
    assert scripted.launches == []


async def test_a_loss_after_a_stop_was_asked_for_launches_nothing(begun, scripted):
    supervisor = begun(max_restarts=3)

    async def act(launch):
        launch.pool.ready = True
        supervisor.obey(protocol.Stop(now=False))
        return DIED

    scripted.acts = [act]
    assert await through(supervisor) == 130
    assert len(scripted.launches) == 1


async def test_once_a_run_ends_a_stop_makes_it_hurry_and_other_commands_are_not_obeyed(begun, scripted):
    supervisor = begun()
    supervisor._finish_with(Ending("completed", 0))
    supervisor._finish_with(Ending("failed", 3, "too late"))
    supervisor.obey(protocol.Pause())
    assert not supervisor._controls.paused
    supervisor.obey(protocol.Stop(now=False))
    assert (supervisor._hurry, supervisor._stop_asked) == (False, False)
    supervisor.obey(protocol.Stop(now=True))
    assert (supervisor._hurry, supervisor._stop_asked) == (True, False)
    with pytest.raises(Ending, match="completed"):
        await supervisor._ending


async def test_a_command_reaches_the_knobs_and_ranks_get_what_follows_at_once(begun, scripted):
    supervisor = begun()
    handed: list[int] = []

    async def act(launch):
        launch.pool.hand_out = lambda: handed.append(supervisor._scheduler.active_ranks)
        supervisor.obey(protocol.SetActiveRanks(active_ranks=1))
        answers(supervisor, 0, 1, 2)

    scripted.acts = [act]
    assert await through(supervisor) == 0
    assert handed == [1]


async def test_a_bug_in_a_command_ends_the_run_with_its_cause(begun, scripted, monkeypatch):
    supervisor = begun()

    async def act(_):
        monkeypatch.setattr(supervisor._controls, "obey", lambda _: 1 // 0)
        supervisor._hear_command(protocol.Pause())
        await asyncio.Event().wait()

    scripted.acts = [act]
    assert await through(supervisor) == 3
    assert left(supervisor).cause.startswith("supervisor: ZeroDivisionError: ")
    assert any("Traceback" in line.text for line in events(supervisor, protocol.LogLine))


async def test_prompts_that_cannot_be_read_any_more_end_the_run_in_their_own_words(begun, scripted):
    supervisor = begun()

    async def act(_):
        raise PromptError([PromptProblem("prompts.jsonl", "it has changed")])

    scripted.acts = [act]
    assert await through(supervisor) == 3
    assert (left(supervisor).status, left(supervisor).cause) == ("failed", "prompts.jsonl: it has changed")


# --- the ending and the files ---------------------------------------------------------------------


TROUBLE = "the disk is gone"


@pytest.mark.parametrize(
    ("ending", "finished", "left_over", "status", "exit_status", "cause"),
    [
        (Ending("completed", 1), Finished(True), False, "completed", 1, None),
        (Ending("stopped", 130), Finished(True), True, "stopped", 130, None),
        (Ending("completed", 0), Finished(True, TROUBLE), False, "completed", 3, "in D, but: T"),
        (Ending("completed", 0), Finished(False, TROUBLE), False, "failed", 3, "in D, but: T; R"),
        (Ending("completed", 0), Finished(False), False, "failed", 3, "in D, but: L; R"),
        (Ending("completed", 0), Finished(True), True, "failed", 3, "in D, but: L; R"),
        (Ending("stopped", 130), Finished(False), True, "stopped", 3, "in D, but: L"),
        (Ending("failed", 2, "no model"), Finished(True, TROUBLE), True, "failed", 3, "no model; in D, but: T"),
        (Ending("failed", 2, "no model"), Finished(True), True, "failed", 2, "no model"),
    ],
)  # fmt: skip
async def test_an_ending_is_made_worse_by_what_is_wrong_with_the_files(
    begun, ending, finished, left_over, status, exit_status, cause
):
    supervisor = begun()
    if not left_over:
        answers(supervisor, 0, 1, 2)
    found = supervisor._with_files(ending, finished)
    said = None
    if cause is not None:
        said = cause.replace("in D", f"finished outputs are in {supervisor._directory}").replace(
            "but: T", f"but: {TROUBLE}"
        )
        said = said.replace("but: L", "but: records were lost from outputs.jsonl as the run ended")
        resume = f"`rankdeck resume {supervisor._run_file.name}` continues with what is there"
        said = said.replace("; R", f"; {resume}")
    assert (found.status, found.exit_status, found.cause) == (status, exit_status, said)


async def test_prompts_that_somebody_has_edited_are_told_of_at_the_end_of_a_complete_run(begun, scripted):
    supervisor = begun()

    async def act(_):
        answers(supervisor, 0, 1, 2)
        path = supervisor._directory / run_directory.PROMPTS_FILE
        path.write_bytes(path.read_bytes().replace(b"prompt 1", b"prompt X"))

    scripted.acts = [act]
    assert await through(supervisor) == 3
    assert "prompts.jsonl" in left(supervisor).cause


async def test_a_directory_that_was_moved_has_its_end_where_it_is_now(begun, scripted, tmp_path):
    supervisor = begun()

    async def act(_):
        answers(supervisor, 0, 1, 2)
        (tmp_path / "run").rename(tmp_path / "moved")

    scripted.acts = [act]
    assert await through(supervisor) == 3
    found = run_directory.read_run_file(tmp_path / "moved")
    assert found.status == "failed"
    assert "was moved to" in found.cause


async def test_the_copy_is_made_of_the_outputs_with_the_stamp_and_the_force_of_this_run(begun, monkeypatch, tmp_path):
    asked: list[tuple] = []
    monkeypatch.setattr(
        run_directory, "copy_outputs", lambda directory, target, **how: asked.append((directory, target, how))
    )
    plain = begun()
    assert plain._copy() is None
    plain._config = msgspec.structs.replace(plain._config, output=str(tmp_path / "o.jsonl"))
    plain._run_file = msgspec.structs.replace(plain._run_file, output_force=True)
    assert plain._copy() is None, "without a record there is nothing to copy"
    plain._resume_point.ledger.note(0, b"")
    plain._copy()()
    assert asked == [(plain._directory, tmp_path / "o.jsonl", {"own": None, "force": True})]


async def test_the_stamp_of_the_copy_is_in_run_json(begun, scripted, tmp_path):
    supervisor = begun(output=str(tmp_path / "o.jsonl"))
    scripted.acts = [all_done(supervisor)]
    assert await through(supervisor) == 0
    assert left(supervisor).output_stamp == run_directory.stamp_of(tmp_path / "o.jsonl")
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 3


async def test_the_stamp_of_an_earlier_copy_stays_where_no_other_was_made(begun, scripted, monkeypatch, tmp_path):
    supervisor = begun()
    (tmp_path / "earlier").touch()
    earlier = run_directory.stamp_of(tmp_path / "earlier")
    supervisor._run_file = msgspec.structs.replace(supervisor._run_file, output_stamp=earlier)
    saved: list[str] = []
    save = supervisor._events.journal.save
    monkeypatch.setattr(supervisor._events.journal, "save", lambda: saved.append(left(supervisor).status) or save())
    scripted.acts = [all_done(supervisor)]
    assert await through(supervisor) == 0
    assert left(supervisor).output_stamp == earlier
    assert saved == ["completed"], "the journal is on disk, after run.json"


async def test_a_sweep_with_a_failed_trial_is_complete_with_an_error_and_one_without_is_not(begun):
    supervisor = begun()
    answers(supervisor, 0, 1, 2)
    trial = Trial(number=1, repeat=1, active_ranks=1, batch_size=1)
    plan = SweepPlan(batch_sizes=[1], ranks=[1])
    supervisor._events.emit(protocol.SweepStarted(plan=plan, trials=[trial]))
    for outcome, status in (("skipped", 0), ("out_of_memory", 0), ("failed", 1)):
        supervisor._events.emit(protocol.TrialFinished(record=TrialRecord(trial=trial, outcome=outcome)))
        with pytest.raises(Ending) as ending:
            supervisor._over()
        assert (ending.value.status, ending.value.exit_status) == ("completed", status)


async def test_work_that_is_left_makes_the_end_a_stop(begun):
    with pytest.raises(Ending) as ending:
        begun()._over()
    assert (ending.value.status, ending.value.exit_status) == ("stopped", 130)


# --- what is watched meanwhile --------------------------------------------------------------------


async def watched(supervisor: Supervisor, monkeypatch) -> None:
    """One look at the files."""
    naps = iter([None])

    async def nap(seconds):
        assert seconds == run.SYNC_SECONDS == 1.0
        if next(naps, "over") == "over":
            raise asyncio.CancelledError

    monkeypatch.setattr(run.asyncio, "sleep", nap)
    with pytest.raises(asyncio.CancelledError):
        await supervisor._watch_files()
    monkeypatch.undo()


async def test_trouble_with_the_outputs_or_else_the_journal_pauses_the_run_until_it_is_gone(begun, monkeypatch):
    supervisor = begun()
    handed: list[str] = []
    supervisor._launch = SimpleNamespace(pool=SimpleNamespace(hand_out=lambda: handed.append("out")))
    done: list[str] = []

    async def kept(name):
        done.append(name)

    outputs = SimpleNamespace(store=SimpleNamespace(trouble="outputs"), look_after=lambda: kept("outputs"))
    journal = SimpleNamespace(trouble="journal")
    monkeypatch.setattr(supervisor, "_outputs", outputs)
    told: list[str | None] = []
    for trouble in (("outputs", "journal"), (None, "journal"), (None, None)):
        with monkeypatch.context() as patch:
            outputs.store.trouble, journal.trouble = trouble
            patch.setattr(
                supervisor,
                "_events",
                SimpleNamespace(journal=journal, look_after=lambda: kept("journal"), log=print),
            )
            patch.setattr(supervisor, "_controls", SimpleNamespace(set_trouble=told.append))
            patch.setattr(supervisor, "_hold", SimpleNamespace(lost=lambda: None, renew=lambda: done.append("lock")))
            patch.setattr(supervisor, "_server", SimpleNamespace(restore=lambda: kept("socket")))
            await watched(supervisor, patch)
    assert told == ["outputs", "journal", None]
    assert handed == ["out"], "only without trouble"
    assert done == ["lock", "outputs", "journal", "socket"] * 3


async def test_a_lost_directory_ends_the_run(begun, monkeypatch):
    supervisor = begun()
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "_hold", SimpleNamespace(lost=lambda: "it was removed"))

        async def nap(_):
            pass

        patch.setattr(run.asyncio, "sleep", nap)
        with pytest.raises(Ending) as ending:
            await supervisor._watch_files()
    assert (ending.value.status, ending.value.exit_status, ending.value.cause) == ("failed", 3, "it was removed")


async def test_a_second_supervisor_ends_this_one_before_it_writes(begun, monkeypatch):
    supervisor = begun()

    class Left(BaseException):
        pass

    def leave(status):
        assert status == 3
        raise Left

    def taken():
        raise run_directory.RunFileError("another has it")

    async def nap(_):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "_hold", SimpleNamespace(lost=lambda: None, renew=taken))
        patch.setattr(run.asyncio, "sleep", nap)
        patch.setattr(run.os, "_exit", leave)
        patch.setattr(Outputs, "look_after", lambda _: pytest.fail("it must not write"))
        with pytest.raises(Left):
            await supervisor._watch_files()
    assert "another supervisor has taken over" in supervisor._events.state.log[-1].text


# --- what is left behind, whatever fails --------------------------------------------------------------


async def test_run_json_has_the_figures_of_the_end(begun, scripted):
    supervisor = begun()
    cost = CostPoint(active_ranks=1, rows=2, batches=1)

    async def act(_):
        answers(supervisor, 0, 1, 2)
        supervisor._events.state = msgspec.structs.replace(supervisor._events.state, costs=(cost,))
        unwritten = protocol.encode_line(record(2))
        supervisor._outputs.store.in_memory = lambda: [unwritten]

    scripted.acts = [act]
    assert await through(supervisor) == 0
    found, state = left(supervisor), supervisor._events.state
    assert (found.costs, sum(found.lengths)) == ([cost], 3)
    assert found.loading == state.loading.phases != {}
    assert found.ended_at is not None
    assert state.started_at < found.ended_at <= state.ended.at
    assert found.summary.completed == 2, "what is not on disk is not done"


async def test_files_that_cannot_be_written_at_the_end_keep_nothing_else_from_ending(begun, scripted, monkeypatch):
    supervisor = begun()
    scripted.acts = [all_done(supervisor)]
    done: list[object] = []

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left")

    async def noted(*what):
        done.append(what)

    monkeypatch.setattr(run_directory, "write_last_run_file", full)
    monkeypatch.setattr(supervisor._events.journal, "save", full)
    monkeypatch.setattr(supervisor._events.viewers, "close", noted)
    monkeypatch.setattr(supervisor._parent, "end", noted)
    assert await through(supervisor) == 0
    assert done == [(), (run.VIEWERS_SECONDS,)], "the parent first, the viewers last"
    assert supervisor._events.state.ended.status == "completed"
    assert any("run.json cannot be written: " in line.text for line in supervisor._events.state.log)
    assert supervisor._files.cancelled()


async def test_a_model_that_is_none_is_bad_input(begun, scripted, monkeypatch):
    supervisor = begun()

    async def none(*_):
        raise ModelError("no such model")

    monkeypatch.setattr(run, "find_model", none)
    assert await through(supervisor) == 2
    assert (left(supervisor).status, left(supervisor).cause) == ("failed", "no such model")


async def test_hung_ranks_are_looked_for_with_the_patience_that_was_asked_for(begun, scripted, monkeypatch):
    asked: list[object] = []

    class Watching:
        def __init__(self, patience, current_launch, events):
            asked.append(patience)

        async def watch(self):
            asked.append("watched")

    monkeypatch.setattr(run, "HungRanks", Watching)
    supervisor = begun(patience=7.0)

    async def act(_):
        await asyncio.sleep(0)
        answers(supervisor, 0, 1, 2)

    scripted.acts = [act]
    assert await through(supervisor) == 0
    assert asked == [7.0, "watched"]


async def test_records_that_somebody_has_removed_as_the_ranks_left_are_done_again(begun, scripted):
    supervisor = begun(max_restarts=1)

    async def act(_):
        answers(supervisor, 0, 1, 2)
        for name in (run_directory.OUTPUTS_FILE, run_directory.EVENTS_FILE):
            os.truncate(supervisor._directory / name, 0)

    scripted.acts = [act, all_done(supervisor)]
    assert await through(supervisor) == 0
    assert len(scripted.launches) == 2
    assert len((supervisor._directory / run_directory.OUTPUTS_FILE).read_bytes().splitlines()) == 3


async def test_prompts_that_were_edited_are_no_matter_of_a_run_that_was_stopped(begun, scripted):
    supervisor = begun()

    async def act(launch):
        launch.pool.ready = True
        path = supervisor._directory / run_directory.PROMPTS_FILE
        path.write_bytes(path.read_bytes().replace(b"prompt 1", b"prompt X"))
        supervisor.obey(protocol.Stop(now=False))

    scripted.acts = [act]
    assert await through(supervisor) == 130
    assert left(supervisor).cause is None


async def test_the_end_hurries_once_a_stop_now_is_asked_for(begun, scripted, monkeypatch):
    supervisor = begun()
    seen: list[bool] = []

    async def finish(_, copy, in_a_hurry):
        seen.append(in_a_hurry())
        supervisor.obey(protocol.Stop(now=True))
        seen.append(in_a_hurry())
        return Finished(True)

    monkeypatch.setattr(Outputs, "finish", finish)
    scripted.acts = [all_done(supervisor)]
    await through(supervisor)
    assert seen == [False, True]


async def test_a_resumed_run_is_not_warned_again(begun, scripted):
    supervisor = begun()

    async def act(launch):
        launch.pool.ready = True
        supervisor.obey(protocol.Stop(now=False))

    scripted.acts = [act]
    assert await through(supervisor) == 130
    remarked = msgspec.structs.replace(left(supervisor), remarks=["four ranks on two cores"])
    again = Supervisor(supervisor._directory, remarked, supervisor._hold)
    scripted.acts.append(all_done(again))
    assert await through(again) == 0
    assert not any("warning" in line.text for line in again._events.state.log)
