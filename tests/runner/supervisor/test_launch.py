"""The launch of a run's ranks: one parent for all, whoever dies; ranks that wait for each other; who is let in."""

import asyncio
import os
import signal

import psutil
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.launching import last_words
from rankdeck.runner.launching.parent import RankParent
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state import Snapshot
from rankdeck.runner.supervisor.launch import RankLaunch
from rankdeck.runner.supervisor.talk.claims import NonsenseError
from rankdeck.tui.sources.client import SocketSource
from tests.runner.supervisor.in_process import Launch
from tests.runner.supervisor.test_outliving import expected
from tests.runner.supervisor.test_supervisor import PROMPTS, command_line, outputs, processes_of, rank_pids
from tests.runner.supervisor.test_supervisor import watch as follow


@pytest.fixture
def slowly(monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")


async def watch(started, **how):
    """As `follow`, for a minute: a loss that nobody notices must fail a test, not hang it."""
    async with asyncio.timeout(60):
        return await follow(started, **how)


def parent_pids(directory) -> list[int]:
    """The parent of a run's stand-in ranks."""
    return [process.pid for process in processes_of(directory) if "launch" in command_line(process)]


def pid_of(directory, rank: int) -> int:
    """A stand-in rank's process; a child that it left has its name, and came later."""
    return min(pid for pid in rank_pids(directory) if psutil.Process(pid).name() == f"rank {rank}")


def launcher_starts(seen: list) -> int:
    said = [message.text for message in seen if isinstance(message, protocol.LogLine)]
    for message in seen:
        if isinstance(message, Snapshot):
            said += [line.text for line in message.state.log]
    return sum(text.startswith("starting ") for text in said)


async def test_ranks_are_launched_afresh_by_the_parent_that_is_there(launch, slowly):
    started = launch(PROMPTS)
    parents: list[list[int]] = []

    async def kill(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == 2:
            os.kill(rank_pids(started.directory)[0], signal.SIGKILL)
        if isinstance(message, protocol.RanksReady):
            parents.append(parent_pids(started.directory))

    state, seen = await watch(started, when=kill)
    assert started.process.wait(20) == 0
    assert state.attempt == 2
    assert len(parents) == 2
    assert parents[0] == parents[1]
    assert launcher_starts(seen) == 1
    assert not processes_of(started.directory)


async def test_when_the_parent_is_killed_the_run_goes_on_and_the_next_launch_has_a_new_one(launch, slowly):
    started = launch(PROMPTS)
    killed: list[int] = []

    async def kill(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == 1:
            killed.extend(parent_pids(started.directory))
            os.kill(killed[0], signal.SIGKILL)
        if isinstance(message, protocol.BatchFinished) and message.batch == 4 and message.at and len(killed) == 1:
            killed.extend(rank_pids(started.directory)[:1])
            os.kill(killed[1], signal.SIGKILL)

    state, seen = await watch(started, when=kill)
    assert started.process.wait(20) == 0
    (lost,) = [message for message in seen if isinstance(message, protocol.RankLost)]
    assert lost.cause == last_words.KILLED, "the kernel knows, though the parent is gone"
    assert state.attempt == 2
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    assert not processes_of(started.directory)


async def test_a_parent_that_is_stopped_is_replaced_when_a_rank_dies(launch, slowly):
    started = launch(PROMPTS)
    stopped: list[int] = []

    async def stop(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == 1:
            stopped.extend(parent_pids(started.directory))
            os.kill(stopped[0], signal.SIGSTOP)
            os.kill(rank_pids(started.directory)[0], signal.SIGKILL)

    state, seen = await watch(started, when=stop)
    assert started.process.wait(20) == 0
    assert state.attempt == 2
    assert launcher_starts(seen) == 2
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)
    assert not psutil.pid_exists(stopped[0])


class KeptParent(RankParent):
    """A parent without processes: `ended` says what of it was ended."""

    def __init__(self) -> None:
        super().__init__(lambda line: None)
        self.ended: list[str] = []

    async def end(self) -> None:
        self.ended.append("all")

    async def end_ranks(self) -> None:
        self.ended.append("ranks")

    async def gone(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize(("connected", "ended"), [(False, "all"), (True, "ranks")])
async def test_with_a_rank_that_never_came_its_parent_is_ended_with_one_that_hangs_only_ranks(
    tmp_path, connected, ended
):
    in_process, parent = Launch(tmp_path), KeptParent()
    launch = RankLaunch(in_process.pool, tmp_path, in_process.config, "m", lambda *_: [], parent, in_process.events)
    if connected:
        in_process.connect()
    launch.give_up(0, "it hangs")
    await launch.end()
    assert parent.ended == [ended]


async def test_a_parent_that_failed_one_rank_is_ended_whatever_another_is_given_up_for(tmp_path):
    in_process, parent = Launch(tmp_path), KeptParent()
    launch = RankLaunch(in_process.pool, tmp_path, in_process.config, "m", lambda *_: [], parent, in_process.events)
    in_process.pool.let_in(in_process.peer(1))
    launch.give_up(0, "it never came")
    launch.give_up(1, "it hangs")
    await launch.end()
    assert parent.ended == ["all"]


async def test_what_is_told_late_of_the_processes_of_an_earlier_launch_is_nothing_of_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr("rankdeck.runner.supervisor.launch.CONNECT_SECONDS", 0.0)
    in_process, parent = Launch(tmp_path), KeptParent()
    in_process.launch_again()
    launch = RankLaunch(in_process.pool, tmp_path, in_process.config, "m", lambda *_: [], parent, in_process.events)
    over = asyncio.create_task(launch.over())
    launch._hear(protocol.RankForked(rank=0, attempt=1, pid=100))
    launch._hear(protocol.RankExited(rank=0, attempt=1, status=-signal.SIGKILL))
    assert launch.process_of(0) is None
    launch._hear(protocol.RankExited(rank=1, attempt=2, status=1, error="this launch's"))
    async with asyncio.timeout(10):
        loss = await over
    assert (loss.rank, loss.cause) == (1, "this launch's")


async def test_for_a_rank_that_fails_as_it_leaves_the_others_are_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("rankdeck.runner.supervisor.launch.CONNECT_SECONDS", 0.0)
    in_process, parent = Launch(tmp_path), KeptParent()
    launch = RankLaunch(in_process.pool, tmp_path, in_process.config, "m", lambda *_: [], parent, in_process.events)
    in_process.connect()
    in_process.pool.told_to_leave.set()
    launch._hear(protocol.RankExited(rank=1, attempt=1, status=1))
    async with asyncio.timeout(10):
        assert await launch.over() is None, "rank 0 may wait in the gather for it"


async def test_the_process_of_a_rank_to_come_is_its_parent_until_it_is_forked_and_then_its_own(tmp_path):
    in_process, parent = Launch(tmp_path), KeptParent()
    launch = RankLaunch(in_process.pool, tmp_path, in_process.config, "m", lambda *_: [], parent, in_process.events)
    assert launch.process_of(1) is None
    parent.pid = 99
    assert launch.process_of(1) == 99
    launch._hear(protocol.RankForked(rank=1, attempt=1, pid=101))
    assert (launch.process_of(0), launch.process_of(1)) == (99, 101)
    in_process.connect()
    assert (launch.process_of(0), launch.process_of(1)) == (None, 101), "rank 0 is there, if nobody knows where"


@pytest.mark.parametrize("dispatch", ["pull", "split"])
async def test_a_run_whose_parent_was_killed_ends_as_any_other(launch, slowly, dispatch):
    started = launch(PROMPTS, dispatch=dispatch)

    async def kill(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == 1:
            os.kill(parent_pids(started.directory)[0], signal.SIGKILL)

    state, _ = await watch(started, when=kill)
    assert started.process.wait(20) == 0
    assert (state.attempt, state.ended.status) == (1, "completed")
    assert not processes_of(started.directory)


async def test_the_rank_that_died_is_the_one_that_is_named(launch, slowly):
    started = launch(PROMPTS, ranks=3)
    named: list[int] = []

    async def kill(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == 3:
            os.kill(pid_of(started.directory, 1), signal.SIGABRT)
        if isinstance(message, protocol.RankLost):
            named.append(message.rank)
            assert message.cause.startswith("killed by SIGABRT")

    await watch(started, when=kill)
    assert named == [1]


async def test_a_rank_that_somebody_kills_while_it_loads_is_launched_again(launch, standin_model):
    """If the kernel had killed it because memory ran out, the run would end: `test_one_launch`."""
    (standin_model / "hold").touch()
    started = launch(PROMPTS)
    killed: list[int] = []

    async def kill(message, _):
        if isinstance(message, protocol.RankPhase) and not killed:
            killed.extend(rank_pids(started.directory)[:1])
            os.kill(killed[0], signal.SIGKILL)
            (standin_model / "hold").unlink()

    state, seen = await watch(started, when=kill)
    assert started.process.wait(20) == 0
    assert state.attempt == 2
    (lost,) = [message for message in seen if isinstance(message, protocol.RankLost)]
    assert lost.cause == last_words.KILLED
    assert not processes_of(started.directory)


async def test_ranks_killed_while_they_load_again_are_tried_again_as_there_was_room_once(launch, slowly, standin_model):
    started = launch(PROMPTS)
    launched: list[int] = []

    async def kill(message, _):
        if isinstance(message, protocol.RanksLaunched):
            launched.append(message.attempt)
        if isinstance(message, protocol.BatchFinished) and message.batch == 1:
            (standin_model / "hold").touch()
            os.kill(pid_of(started.directory, 0), signal.SIGKILL)
        if isinstance(message, protocol.RankPhase) and message.rank == 0 and launched and launched[-1] in (2, 3):
            os.kill(pid_of(started.directory, 0), signal.SIGKILL)
            if launched[-1] == 3:
                (standin_model / "hold").unlink()

    state, _ = await watch(started, when=kill)
    assert started.process.wait(20) == 0
    assert state.attempt == 4
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)


@pytest.mark.parametrize("killed", [False, True])
async def test_what_ranks_have_left_running_is_ended_with_the_run(launch, slowly, standin_model, killed):
    (standin_model / "children").mkdir()
    started = launch(PROMPTS)

    async def kill(message, _):
        if killed and isinstance(message, protocol.BatchFinished) and message.batch == 2:
            os.kill(parent_pids(started.directory)[0], signal.SIGKILL)
            os.kill(pid_of(started.directory, 1), signal.SIGKILL)

    _, seen = await watch(started, when=kill)
    assert started.process.wait(30) == 0
    lost = [(message.rank, message.cause) for message in seen if isinstance(message, protocol.RankLost)]
    assert lost == ([(1, last_words.KILLED)] if killed else []), "though its child holds its connection open"
    children = [int(path.name) for path in (standin_model / "children").iterdir()]
    assert len(children) == (4 if killed else 2)
    assert not [pid for pid in children if psutil.pid_exists(pid)]


async def test_what_ranks_have_left_running_is_ended_when_the_supervisor_is_killed(launch, slowly, standin_model):
    (standin_model / "children").mkdir()
    started = launch(PROMPTS)
    async for message in SocketSource(started.directory, started.died).events():
        if isinstance(message, protocol.RanksReady):
            break
    children = [int(path.name) for path in (standin_model / "children").iterdir()]
    assert len(children) == 2
    started.process.kill()
    started.process.wait()
    async with asyncio.timeout(20):
        while processes_of(started.directory) or any(psutil.pid_exists(pid) for pid in children):
            await asyncio.sleep(0.05)


async def greet(directory, **greeting) -> bytes:
    """What the supervisor says to a rank that greets like this."""
    reader, writer = await asyncio.open_unix_connection(str(run_directory.socket_path(directory)))
    writer.write(protocol.encode_line(protocol.RankHello(**greeting)))
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_a_rank_that_is_not_of_this_launch_is_hung_up_on(launch, standin_model):
    (standin_model / "late").touch()
    started = launch(PROMPTS)

    async def intrude(message, _):
        if isinstance(message, Snapshot | protocol.RanksLaunched) and (standin_model / "late").exists():
            for rank, attempt in [(0, 0), (1, 2), (2, 1), (-1, 1)]:
                assert b"work" not in await greet(started.directory, rank=rank, world_size=2, attempt=attempt)
            (standin_model / "late").unlink()

    state, _ = await watch(started, when=intrude)
    assert started.process.wait(20) == 0
    assert state.attempt == 1
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)


async def test_a_record_of_hundreds_of_kilobytes_arrives_whole(launch):
    long = "x" * 300_000
    started = launch([f"!say {long}", "short"])
    await watch(started)
    assert started.process.wait(20) == 0
    assert outputs(started.directory)[0].text == long


def test_no_rank_goes_on_from_a_meeting_point_before_all_are_there(tmp_path):
    launch = Launch(tmp_path, ranks=2)
    first, second = launch.connect()

    def arrives(rank, at: protocol.MeetingPoint) -> None:
        launch.say(rank, protocol.Arrived(rank=rank.number, at=at))

    arrives(first, "memory taken")
    arrives(second, "limits")
    assert first.peer.sent == second.peer.sent == []
    arrives(second, "memory taken")
    assert first.peer.sent == second.peer.sent == [protocol.GoOn(at="memory taken")]
    with pytest.raises(NonsenseError, match="it has come to 'memory taken' already"):
        arrives(first, "memory taken")
    arrives(first, "limits")
    assert first.peer.sent[1:] == second.peer.sent[1:] == [protocol.GoOn(at="limits")]


async def test_ranks_of_a_sweep_wait_for_each_other_and_then_work(launch):
    started = launch(PROMPTS, sweep=SweepPlan(batch_sizes=[2], ranks=[2]), ranks=2)
    state, _ = await watch(started)
    assert started.process.wait(30) == 0
    assert state.sweep is not None
    assert state.sweep.records


async def test_a_rank_that_fails_while_others_wait_for_it_ends_the_launch(launch, standin_model):
    (standin_model / "fail-load-1").touch()
    started = launch(PROMPTS, sweep=SweepPlan(batch_sizes=[2], ranks=[2]), ranks=2)
    state, _ = await watch(started)
    assert started.process.wait(30) == 3
    assert state.ended.cause == "rank 1: OSError: weights.bin is damaged"
    assert not processes_of(started.directory)


async def test_the_file_over_which_ranks_found_each_other_goes_with_their_launch(launch, slowly):
    started = launch(PROMPTS, dispatch="split")
    store = run_directory.socket_path(started.directory).with_suffix(".1.store")

    async def make(message, _):
        if isinstance(message, protocol.RanksReady):
            store.touch()

    await watch(started, when=make)
    assert started.process.wait(20) == 0
    assert not store.exists()
