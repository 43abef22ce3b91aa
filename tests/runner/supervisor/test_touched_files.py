"""Whole runs whose files somebody touches: every prompt has its record in the end, or the run says that it has not."""

import asyncio
import contextlib
import os
import shutil
import signal

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory import run_file
from rankdeck.runner.run_directory.files import mend
from rankdeck.runner.run_directory.private_files import open_private
from tests.runner.supervisor.test_outliving import expected
from tests.runner.supervisor.test_supervisor import PROMPTS, outputs, rank_pids, watch


def when_batch(number, act):
    """Act once, when the batch of this number has finished."""

    async def when(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == number:
            act()

    return when


async def test_outputs_deleted_while_the_run_goes_on_are_whole_in_the_end(launch):
    started = launch(PROMPTS)
    state, _ = await watch(started, when=when_batch(2, (started.directory / run_directory.OUTPUTS_FILE).unlink))
    assert started.process.wait(20) == 0
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    assert (state.ended.status, state.ended.summary.completed) == ("completed", 25)


@pytest.mark.parametrize(("dispatch", "leaves"), [("pull", "at once"), ("pull", "linger"), ("split", "at once")])
async def test_records_lost_as_the_last_rank_leaves_are_done_again_by_new_ranks(
    launch, standin_model, dispatch, leaves
):
    (standin_model / "wipe").write_text(leaves)
    started = launch(PROMPTS, dispatch=dispatch)
    state, _ = await watch(started)
    assert started.process.wait(30) == 0
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    assert state.attempt == 2
    assert (state.ended.status, state.completed, state.output_tokens) == ("completed", 25, 25 * 4)


async def test_without_restarts_left_a_run_that_lacks_records_is_not_complete_and_resume_does_them(
    launch, standin_model
):
    (standin_model / "wipe").touch()
    started = launch(PROMPTS, max_restarts=0)
    state, _ = await watch(started)
    assert started.process.wait(20) == 3
    assert state.ended.status == run_directory.read_run_file(started.directory).status == "failed"
    assert "25 records were lost from outputs.jsonl" in state.ended.cause
    again = start.resume(started.directory, {})
    await watch(again)
    assert again.process.wait(20) == 0
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)


async def test_a_run_whose_directory_is_moved_says_so_where_it_is_now_and_goes_on_there(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    started, moved = launch(PROMPTS), tmp_path / "moved"
    state, _ = await watch(started, when=when_batch(2, lambda: started.directory.rename(moved)))
    assert started.process.wait(20) == 3
    run = run_directory.read_run_file(moved)
    assert (run.status, run.exit_status, run.cause) == ("failed", 3, state.ended.cause)
    assert f"was moved to {moved}" in run.cause
    again = start.resume(moved, {})
    await watch(again)
    assert again.process.wait(20) == 0
    assert [record.text for record in outputs(moved)] == expected(PROMPTS)


async def test_a_complete_run_that_has_lost_records_since_is_resumed_for_those_alone(launch):
    started = launch(PROMPTS)
    await watch(started)
    started.process.wait(20)
    path = started.directory / run_directory.OUTPUTS_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"x" * 40 + b"\n", *lines[5:]]))
    again = start.resume(started.directory, {})
    _, seen = await watch(again)
    assert again.process.wait(20) == 0
    assert sum(message.rows for message in seen if isinstance(message, protocol.BatchStarted)) == 2
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    assert "mended: outputs.jsonl: 1 line not of this run" in (started.directory / run_directory.LOG_FILE).read_text()


async def test_a_supervisor_that_cannot_take_the_run_up_says_why_in_run_json(launch, standin_model):
    (standin_model / "hold").touch()
    started = launch(PROMPTS)
    started.process.kill()
    started.process.wait()
    journal = started.directory / run_directory.EVENTS_FILE
    newer = protocol.RunStarted(at=1, name="r", directory="/r", config=RunConfig(prompts="p"), prompts=1, version=99)
    journal.write_bytes(protocol.encode_line(newer))
    again = start.resume(started.directory, {})
    assert again.process.wait(20) == 3
    run = run_directory.read_run_file(started.directory)
    assert (run.status, run.exit_status) == ("failed", 3)
    assert "written by a newer rankdeck" in run.cause
    assert "Traceback" not in (started.directory / run_directory.LOG_FILE).read_text()


async def test_a_lock_that_was_removed_is_held_again_before_long(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    started = launch(PROMPTS * 4)

    async def remove(message, source):
        if isinstance(message, protocol.BatchFinished) and message.batch == 1:
            (started.directory / "supervisor.lock").unlink()
            async with asyncio.timeout(20):
                while not run_directory.supervisor_alive(started.directory):
                    await asyncio.sleep(0.05)
            await source.send(protocol.Stop(now=True))

    await watch(started, when=remove)
    assert started.process.wait(20) == 130


@pytest.mark.parametrize("number", [2, 7])
async def test_prompts_edited_while_the_run_goes_on_are_not_answered_and_the_run_says_so(launch, monkeypatch, number):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    started = launch(PROMPTS)
    path = started.directory / run_directory.PROMPTS_FILE

    def edit():
        other = path.with_name("edited")
        other.write_bytes(path.read_bytes().replace(b"prompt", b"PROMPT"))
        other.replace(path)

    await watch(started, when=when_batch(number, edit))
    assert started.process.wait(20) == 3
    run = run_directory.read_run_file(started.directory)
    assert "prompts.jsonl has changed since the run began" in (run.cause or "")
    assert {record.prompt for record in outputs(started.directory)} <= set(PROMPTS)
    assert "Traceback" not in (started.directory / run_directory.LOG_FILE).read_text()


# --- refused before a supervisor starts -----------------------------------------------------------


@pytest.fixture
def stopped(tmp_path, standin_model, monkeypatch):
    """A run that was stopped before its first batch; no supervisor starts."""
    monkeypatch.setattr(start, "start_supervisor", lambda _: None)
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    config = RunConfig(prompts=str(tmp_path / "p.txt"), model=str(standin_model), device="cpu", ranks=1)
    directory = start.launch(config, run_dir=tmp_path / "run").directory
    run = run_directory.read_run_file(directory)
    run_directory.write_run_file(directory, msgspec.structs.replace(run, status="stopped"))
    return directory


@pytest.mark.parametrize("force", [False, True])
def test_outputs_in_the_place_of_a_file_of_the_run_are_refused_and_nothing_is_left_behind(
    tmp_path, standin_model, monkeypatch, force
):
    monkeypatch.setattr(start, "start_supervisor", lambda _: None)
    (tmp_path / "p.txt").write_text("one\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "another name").symlink_to("run")
    output = str(tmp_path / "another name" / run_directory.RUN_FILE)
    config = RunConfig(prompts=str(tmp_path / "p.txt"), model=str(standin_model), device="cpu", ranks=1, output=output)
    with pytest.raises(start.InputError, match=r"--output: .* is in the run's own directory"):
        start.launch(config, run_dir=tmp_path / "run", force=force)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["events.jsonl", "outputs.jsonl", "runner.log", ".reserve", "supervisor.lock", "rank-0.log"]
)
def test_a_link_in_the_place_of_a_file_of_the_run_is_refused_by_name(stopped, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("half a line")
    victim.chmod(0o644)
    (stopped / name).symlink_to(victim)
    with pytest.raises(start.InputError, match=f"{name} is a link, not a file"):
        start.resume(stopped, {})
    for write in (lambda: os.close(open_private(stopped / name)), lambda: mend(stopped / name)):
        with contextlib.suppress(OSError):
            write()
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("half a line", 0o644)
    assert run_directory.read_run_file(stopped).status == "stopped"


def test_prompts_that_have_changed_since_the_run_began_are_refused_by_name(stopped):
    prompts = stopped / run_directory.PROMPTS_FILE
    prompts.write_bytes(prompts.read_bytes().replace(b"two", b"TWO"))
    with pytest.raises(start.InputError, match=r"prompts\.jsonl has changed since the run began"):
        start.resume(stopped, {})
    prompts.unlink()
    with pytest.raises(start.InputError, match=r"prompts\.jsonl: there is no such file"):
        start.resume(stopped, {})
    assert run_directory.read_run_file(stopped).status == "stopped"


def test_prompts_as_they_were_and_those_of_a_run_that_kept_no_digest_are_taken(stopped):
    assert start.resume(stopped, {}).directory == stopped
    run = run_directory.read_run_file(stopped)
    assert run.prompts_digest is not None
    run_directory.write_run_file(stopped, msgspec.structs.replace(run, prompts_digest=None))
    prompts = stopped / run_directory.PROMPTS_FILE
    prompts.write_bytes(prompts.read_bytes().replace(b"two", b"TWO"))
    assert start.resume(stopped, {}).directory == stopped


def test_resume_on_a_full_disk_is_refused_and_the_status_stays_true(stopped, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_file.os, "fsync", full)
    with pytest.raises(start.InputError, match="cannot be written: No space left on device; nothing was changed"):
        start.resume(stopped, {})
    assert run_directory.read_run_file(stopped).status == "stopped"
    assert not [path.name for path in stopped.iterdir() if path.name.startswith(".run.json")]


def test_a_supervisor_that_cannot_be_started_leaves_the_status_as_it_was(stopped, monkeypatch):
    def fails(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(start, "start_supervisor", fails)
    with pytest.raises(start.InputError, match="the supervisor cannot be started"):
        start.resume(stopped, {})
    assert run_directory.read_run_file(stopped).status == "stopped"


def test_a_run_whose_supervisor_cannot_be_started_leaves_nothing_behind(tmp_path, standin_model, monkeypatch):
    def fails(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(start, "start_supervisor", fails)
    (tmp_path / "p.txt").write_text("one\n")
    config = RunConfig(prompts=str(tmp_path / "p.txt"), model=str(standin_model), device="cpu", ranks=1)
    with pytest.raises(start.InputError, match="No space left on device"):
        start.launch(config, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not os.path.lexists(run_directory.runs_directory() / "run")


async def test_a_run_that_was_removed_leaves_alone_what_came_into_its_place(launch, monkeypatch):
    done = launch(PROMPTS)
    await watch(done)
    done.process.wait(20)
    before = (done.directory / run_directory.RUN_FILE).read_bytes()
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.3")
    started = launch(PROMPTS)

    async def replace(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == 1:
            shutil.rmtree(started.directory)
            shutil.copytree(done.directory, started.directory)

    state, _ = await watch(started, when=replace)
    assert started.process.wait(20) == 3
    assert state.ended.cause.endswith("was removed while the run went on, and what was in it is lost")
    for name in (run_directory.RUN_FILE, run_directory.OUTPUTS_FILE, run_directory.EVENTS_FILE):
        assert (started.directory / name).read_bytes() == (done.directory / name).read_bytes(), name
    assert (started.directory / run_directory.RUN_FILE).read_bytes() == before


async def test_a_run_without_an_answer_leaves_alone_what_it_may_replace(launch, standin_model, tmp_path):
    (tmp_path / "answers.jsonl").write_text("of yesterday\n")
    (standin_model / "fail-load").touch()
    started = launch(PROMPTS, output=str(tmp_path / "answers.jsonl"), force=True)
    await watch(started)
    assert started.process.wait(20) == 3
    assert (tmp_path / "answers.jsonl").read_text() == "of yesterday\n"
    (standin_model / "fail-load").unlink()
    again = start.resume(started.directory, {})
    await watch(again)
    assert again.process.wait(20) == 0
    assert (tmp_path / "answers.jsonl").read_bytes() == (started.directory / run_directory.OUTPUTS_FILE).read_bytes()


# --- another model in the place of the run's ------------------------------------------------------


async def test_a_run_that_has_answers_is_not_resumed_with_another_model(launch, standin_model, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")
    started = launch(PROMPTS)
    await watch(started, when=when_batch(2, started.process.terminate))
    started.process.wait(20)
    before = (started.directory / run_directory.RUN_FILE).read_bytes()
    config = (standin_model / "config.json").read_text()
    (standin_model / "config.json").write_text('{"other": 1}')
    with pytest.raises(start.InputError) as refused:
        start.resume(started.directory, {})
    assert str(refused.value.problems[0]) == (
        "--model: config.json of the model has changed since the run began, so its answers would mix two models; "
        "put the file back as before, or start a new run"
    )
    assert (started.directory / run_directory.RUN_FILE).read_bytes() == before
    (standin_model / "config.json").write_text(config)
    again = start.resume(started.directory, {})
    await watch(again)
    assert again.process.wait(20) == 0


async def test_a_run_that_has_answers_is_not_resumed_without_the_folder_of_its_model(
    launch, standin_model, monkeypatch
):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")
    started = launch(PROMPTS)
    await watch(started, when=when_batch(2, started.process.terminate))
    started.process.wait(20)
    moved = standin_model.rename(standin_model.with_name("moved"))
    with pytest.raises(start.InputError) as refused:
        start.resume(started.directory, {})
    said = f"the model's files are gone from {standin_model}; put them back"
    assert str(refused.value.problems[0]) == f"--model: {said}"
    moved.rename(standin_model)
    assert start.resume(started.directory, {}).process.wait(20) == 0


async def test_a_folder_given_by_a_relative_path_is_the_runs_model_wherever_it_is_resumed(
    launch, standin_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")
    monkeypatch.chdir(standin_model.parent)
    started = launch(PROMPTS, model=standin_model.name)
    await watch(started, when=when_batch(2, started.process.terminate))
    started.process.wait(20)
    assert run_directory.read_run_file(started.directory).config.model == str(standin_model)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / standin_model.name).mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    again = start.resume(started.directory, {})
    await watch(again)
    assert again.process.wait(20) == 0


async def test_a_model_of_the_hub_is_not_replaced_by_a_folder_of_its_name(launch, tmp_path, monkeypatch):
    started = launch(PROMPTS)
    started.process.kill()
    started.process.wait()
    run = run_directory.read_run_file(started.directory)
    config = msgspec.structs.replace(run.config, model="org/model")
    run_directory.write_run_file(started.directory, msgspec.structs.replace(run, config=config, model_files={}))
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(start.InputError) as refused:
        start.resume(started.directory, {})
    said = "org/model was a hub model when the run began, but here it is a folder"
    assert str(refused.value.problems[0]) == f"--model: {said}; resume the run from another folder"


async def test_without_any_answer_the_model_may_be_corrected(launch, standin_model):
    (standin_model / "fail-load").touch()
    started = launch(PROMPTS)
    await watch(started)
    assert started.process.wait(20) == 3
    (standin_model / "fail-load").unlink()
    (standin_model / "generation_config.json").write_text('{"eos_token_id": 1}')
    known = run_directory.read_run_file(started.directory).model_files
    again = start.resume(started.directory, {})
    await watch(again)
    assert again.process.wait(20) == 0
    now = run_directory.read_run_file(started.directory).model_files
    assert [name for name in now if now[name] != known.get(name)] == ["generation_config.json"]


async def test_ranks_are_not_launched_again_with_another_model(launch, standin_model, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.1")
    started = launch(PROMPTS)

    def act():
        (standin_model / "config.json").write_text('{"other": 1}')
        os.kill(rank_pids(started.directory)[0], signal.SIGKILL)

    state, _ = await watch(started, when=when_batch(2, act))
    assert started.process.wait(20) == 2
    assert state.ended.status == "failed"
    assert "config.json of the model has changed since the run began" in state.ended.cause
