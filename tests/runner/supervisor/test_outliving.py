"""Whatever dies, no finished output is lost: ranks, supervisor, viewers, disk."""

import asyncio
import os
import resource
import signal

import psutil
import pytest

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.protocol import Prompt
from rankdeck.runner.state import Snapshot
from rankdeck.tui.sources.client import SocketSource
from tests.runner.supervisor.test_supervisor import PROMPTS, command_line, outputs, processes_of, rank_pids, watch
from tests.standin.rank import answer


def expected(prompts: list[str]) -> list[str]:
    return [answer(Prompt(index=index, id=str(index), text=text)) for index, text in enumerate(prompts)]


@pytest.fixture
def slowly(monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")


async def test_a_killed_rank_costs_time_and_no_output(launch, slowly):
    started = launch(PROMPTS)

    async def kill(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == 2:
            os.kill(rank_pids(started.directory)[0], signal.SIGKILL)

    state, seen = await watch(started, when=kill)
    assert started.process.wait(20) == 0
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    (lost,) = [message for message in seen if isinstance(message, protocol.RankLost)]
    assert "killed by SIGKILL" in lost.cause
    assert state.attempt == 2
    assert state.restarts_left == 2
    assert [mark.kind for mark in state.marks] == ["rank lost"]


async def test_after_so_many_restarts_the_run_ends_with_the_cause(launch, slowly):
    started = launch(PROMPTS, max_restarts=1)

    async def kill(message, _):
        if isinstance(message, protocol.BatchStarted):
            for pid in rank_pids(started.directory)[:1]:
                os.kill(pid, signal.SIGKILL)

    state, _ = await watch(started, when=kill)
    assert started.process.wait(20) == 3
    assert state.ended.cause.endswith("(after 1 restarts)")
    assert not processes_of(started.directory)


async def test_a_prompt_that_kills_its_rank_every_time_costs_that_one_prompt(launch):
    prompts = [*PROMPTS[:6], "!die", *PROMPTS[6:]]
    started = launch(prompts, ranks=2)
    await watch(started)
    assert started.process.wait(30) == 1
    records = outputs(started.directory)
    assert [record.index for record in records if record.error] == [6]
    assert records[6].error.startswith("its rank died of it twice: killed by SIGKILL")
    assert len(records) == 26


async def test_a_batch_that_does_not_fit_is_halved_until_it_does(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_ROOM", "3")
    started = launch(PROMPTS, batch_size=16, ranks=1)
    state, seen = await watch(started)
    assert started.process.wait(20) == 0
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    failed = [message for message in seen if isinstance(message, protocol.BatchFailed)]
    assert [message.kind for message in failed] == ["out_of_memory"] * len(failed)
    assert state.ranks[0].cap == 3
    assert state.marks[0].text == "rank 0 out of memory"


async def test_a_single_prompt_that_does_not_fit_gets_an_error_record(launch):
    started = launch(["!huge", *PROMPTS], batch_size=4)
    await watch(started)
    assert started.process.wait(20) == 1
    (failed,) = [record for record in outputs(started.directory) if record.error]
    assert (failed.index, failed.error) == (0, "OutOfMemoryError: CUDA out of memory.")


async def test_after_the_supervisor_was_killed_resume_does_exactly_the_missing_prompts(launch, slowly):
    started = launch(PROMPTS)
    async for message in SocketSource(started.directory, started.died).events():
        if isinstance(message, protocol.BatchFinished) and message.batch >= 3:
            break
    started.process.kill()
    started.process.wait()
    path = started.directory / run_directory.OUTPUTS_FILE
    before = path.read_bytes()
    done = before.count(b"\n")
    path.write_bytes(before + b'{"index":24,"id":"24","prom')
    (started.directory / "p.txt").unlink(missing_ok=True)

    again = start.resume(started.directory, {"batch_size": 7, "ranks": 3})
    state, seen = await watch(again)
    assert again.process.wait(20) == 0
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    handed_out = sum(message.rows for message in seen if isinstance(message, protocol.BatchStarted))
    assert handed_out <= 25 - done, "nothing finished is done again"
    run = run_directory.read_run_file(started.directory)
    assert (run.config.batch_size, run.config.ranks, run.status) == (7, 3, "completed")
    assert run.summary.completed == 25
    assert state.marks[-1].kind == "taken up"
    assert done >= 3
    assert set(before.splitlines()) <= set(path.read_bytes().splitlines()), "what was there is there as it was"


async def test_a_run_that_is_live_or_complete_cannot_be_resumed(launch, slowly):
    started = launch(PROMPTS)

    async def resume_too_early(message, _):
        if isinstance(message, protocol.RanksReady):
            with pytest.raises(start.InputError, match="already has a live supervisor"):
                start.resume(started.directory, {})

    await watch(started, when=resume_too_early)
    started.process.wait(20)
    with pytest.raises(start.InputError, match="is complete"):
        start.resume(started.directory, {})


async def test_a_stopped_run_goes_on_where_it_was(launch, slowly):
    started = launch(PROMPTS)

    async def stop(message, source):
        if isinstance(message, protocol.BatchFinished) and message.batch == 2:
            await source.send(protocol.Stop())

    await watch(started, when=stop)
    started.process.wait(20)
    left = len(outputs(started.directory))
    assert 0 < left < 25
    again = start.resume(started.directory, {})
    state, _ = await watch(again)
    assert again.process.wait(20) == 0
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    assert state.ended.summary.output_tokens == 25 * 4


async def test_a_viewer_that_was_killed_or_never_reads_slows_nobody_and_catches_up(launch, monkeypatch):
    monkeypatch.setattr("tests.conftest.start_standin_supervisor", start.start_supervisor)
    prompts = [f"{'long ' * 400}{number}" for number in range(3000)]
    started = launch(prompts, batch_size=50)
    reader, writer = await asyncio.open_unix_connection(await wait_for_socket(started), limit=protocol.MAX_LINE_BYTES)
    writer.write(protocol.encode_line(protocol.ViewerHello()))
    await writer.drain()
    stalled = asyncio.get_running_loop().time()
    reader._transport.pause_reading()  # the stalled viewer: it does not read any more
    state, seen = await watch(started)
    assert state.ended.exit_status == 0
    assert asyncio.get_running_loop().time() - stalled < 60
    assert sum(isinstance(message, Snapshot) for message in seen) >= 1, "the other viewer saw the run"
    writer.close()
    assert started.process.wait(20) == 0


async def wait_for_socket(started) -> str:
    path = str(run_directory.socket_path(started.directory))
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(path)
        except (FileNotFoundError, ConnectionRefusedError):  # bound, but not listening yet
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return path


async def test_a_full_disk_pauses_the_run_and_space_lets_it_go_on(launch, standin_model):
    (standin_model / "hold").touch()
    started = launch(PROMPTS)
    supervisor = psutil.Process(started.process.pid)
    full, freed = asyncio.Event(), asyncio.Event()

    async def fill_and_free(message, _):
        if isinstance(message, protocol.RankPhase) and not full.is_set():
            supervisor.rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))
            (standin_model / "hold").unlink()
            full.set()
        if isinstance(message, protocol.Paused):
            assert message.reason == "outputs.jsonl cannot be written: File too large"
            supervisor.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
            freed.set()

    state, seen = await watch(started, when=fill_and_free)
    assert started.process.wait(20) == 0
    assert freed.is_set()
    assert any(isinstance(message, protocol.Resumed) for message in seen)
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    assert state.ended.summary.completed == 25


async def test_records_that_never_came_to_disk_are_not_counted_as_done(launch, standin_model):
    (standin_model / "hold").touch()
    started = launch(PROMPTS)

    async def fill_and_stop(message, source):
        if isinstance(message, protocol.RankPhase) and (standin_model / "hold").exists():
            resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (1000, 1000))
            (standin_model / "hold").unlink()
        if isinstance(message, protocol.Paused) and "outputs.jsonl" in message.reason:
            await source.send(protocol.Stop(now=True))

    state, _ = await watch(started, when=fill_and_stop)
    assert started.process.wait(20) == 3
    on_disk = (started.directory / run_directory.OUTPUTS_FILE).read_bytes().count(b"\n")
    assert 0 <= on_disk < state.completed
    assert state.ended.summary.completed == on_disk


async def test_no_rank_outlives_a_supervisor_that_was_killed_together_with_its_launcher(launch, slowly):
    started = launch(PROMPTS)
    async for message in SocketSource(started.directory, started.died).events():
        if isinstance(message, protocol.RanksReady):
            break
    # Stopped first, so that it does not see its launcher die and end the ranks itself.
    started.process.send_signal(signal.SIGSTOP)
    for process in processes_of(started.directory):
        if "launch" in command_line(process):
            process.kill()
    started.process.kill()
    started.process.wait()
    async with asyncio.timeout(20):
        while processes_of(started.directory):
            await asyncio.sleep(0.05)


async def test_a_run_whose_log_cannot_be_written_ends_as_any_other(launch, monkeypatch):
    killed = launch(PROMPTS)
    killed.process.kill()
    killed.process.wait()
    monkeypatch.setattr(start, "open_private", lambda log: os.open("/dev/full", os.O_WRONLY))
    resumed = start.resume(killed.directory, {})
    assert resumed.process.wait(20) == 0
    assert [record.text for record in outputs(resumed.directory)] == expected(PROMPTS)
    assert not processes_of(resumed.directory)


async def test_an_end_waits_for_space_until_it_is_told_to_stop(launch, standin_model):
    (standin_model / "hold").touch()
    started = launch(PROMPTS[:4], ranks=1)
    supervisor = psutil.Process(started.process.pid)

    async def fill(message, source):
        if isinstance(message, protocol.RankPhase):
            supervisor.rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))
            (standin_model / "hold").unlink(missing_ok=True)
        if isinstance(message, protocol.Paused):
            await source.send(protocol.Stop(now=True))

    state, _ = await watch(started, when=fill)
    assert started.process.wait(20) == 3
    assert "File too large" in state.ended.cause


async def test_a_link_to_a_full_device_in_place_of_the_outputs_is_replaced_and_no_record_is_lost(launch, standin_model):
    (standin_model / "hold").touch()
    started = launch(PROMPTS[:4], ranks=1)
    full = started.directory / run_directory.OUTPUTS_FILE

    async def fill(message, _):
        if isinstance(message, protocol.RankPhase) and (standin_model / "hold").exists():
            full.symlink_to("/dev/full")
            (standin_model / "hold").unlink()

    await watch(started, when=fill)
    assert started.process.wait(20) == 0
    assert not full.is_symlink()
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS[:4])


NONSENSE = {
    "no message": b"{]\n",
    "an order": protocol.encode_line(protocol.Leave()),
    "a line that does not end": b"x" * (protocol.MAX_LINE_BYTES + 2_000_000) + b"\n",
    "a share": b'{"type":"share","rank":0,"start":-5,"stop":1000000000}\n',
    "a record": b'{"type":"output","record":{"index":24,"id":"24","prompt":"p","text":"t","prompt_tokens":1,'
    b'"output_tokens":1,"finish_reason":"stop","batch":1}}\n',
    "another rank's end": b'{"type":"rank_failed","rank":1,"error":"e","traceback":"t"}\n',
    "an absurd number": b'{"type":"batch_failed","rank":0,"batch":' + b"9" * 4000 + b',"kind":"error","error":"e"}\n',
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
async def test_a_rank_that_talks_nonsense_is_taken_for_lost_and_replaced(launch, slowly, standin_model, nonsense):
    (standin_model / "nonsense").write_bytes(nonsense)
    started = launch(PROMPTS)
    state, seen = await watch(started)
    assert started.process.wait(20) == 0
    (lost,) = [message for message in seen if isinstance(message, protocol.RankLost)]
    assert lost.rank == 0
    assert lost.cause.startswith("it sent an impossible message: ")
    assert (state.attempt, state.ended.summary.output_tokens) == (2, 100)
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)


async def test_prompts_that_go_away_under_a_run_end_it_with_the_cause(launch, slowly):
    started = launch(PROMPTS)

    async def remove(message, _):
        if isinstance(message, protocol.BatchStarted) and message.batch == 2:
            (started.directory / run_directory.PROMPTS_FILE).unlink()

    state, _ = await watch(started, when=remove)
    assert started.process.wait(20) == 3
    assert "prompts.jsonl" in state.ended.cause
    assert not processes_of(started.directory)


async def test_a_run_is_found_again_after_its_socket_was_cleaned_away(launch, slowly):
    started = launch(PROMPTS * 2)
    path = run_directory.socket_path(started.directory)

    async def clean(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == 2:
            path.unlink()

    watching = asyncio.create_task(watch(started, when=clean))
    await wait_for_socket(started)
    while path.exists():
        await asyncio.sleep(0.01)
    late, _ = await watch(started)
    await watching
    assert late.ended.exit_status == 0


async def test_a_viewer_too_slow_to_hear_the_end_gets_it_from_the_files(launch):
    started = launch(PROMPTS)
    source = SocketSource(started.directory, started.died)
    events = source.events()
    await anext(events)
    started.process.wait(20)  # the run ends while nobody reads
    source._writer.transport.abort()
    last = [message async for message in events][-1]
    assert (last.state.ended.exit_status, last.state.ended.summary.completed, last.state.done) == (0, 25, 25)


async def test_a_knob_turned_while_loading_counts(launch, standin_model):
    (standin_model / "hold").touch()
    started = launch(PROMPTS, batch_size=4)

    async def turn(message, source):
        if isinstance(message, protocol.RankPhase):
            await source.send(protocol.SetBatchSize(batch_size=13))
            await source.send(protocol.Pause())
            await source.send(protocol.Resume())
        if isinstance(message, protocol.Resumed):
            (standin_model / "hold").unlink(missing_ok=True)

    _, seen = await watch(started, when=turn)
    assert [message.rows for message in seen if isinstance(message, protocol.BatchStarted)] == [13, 12]


async def test_the_time_between_two_supervisors_is_no_time_of_the_run(launch, slowly):
    started = launch(PROMPTS)

    async def stop(message, source):
        if isinstance(message, protocol.BatchFinished) and message.batch == 2:
            await source.send(protocol.Stop())

    before, _ = await watch(started, when=stop)
    started.process.wait(20)
    await asyncio.sleep(2.0)
    again = start.resume(started.directory, {})
    after, _ = await watch(again)
    again.process.wait(20)
    assert after.ended.summary.seconds < before.ended.summary.seconds + 1.5
    assert sum(rank.prompts for rank in after.ended.summary.ranks) == 25
