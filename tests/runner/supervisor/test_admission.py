"""Who may be a rank: a process of this very launch, once; whoever else greets changes nothing and ends nobody."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.launching.parent import RankParent
from rankdeck.runner.machine import kernel
from rankdeck.runner.machine.kernel import PeerProcess
from rankdeck.runner.protocol import RankHello
from rankdeck.runner.supervisor import launch as launch_module
from rankdeck.runner.supervisor.door.peers import RankPeer
from rankdeck.runner.supervisor.launch import RankLaunch
from tests.runner.supervisor.in_process import KeptPeer, Launch
from tests.runner.supervisor.test_outliving import expected
from tests.runner.supervisor.test_supervisor import PROMPTS, outputs, rank_pids, watch

OWN = os.getpid()


class Greeting(KeptPeer):
    """A peer that greets and hangs up; `reason` says why it was refused."""

    reason: str | None = None

    def refuse(self, reason: str) -> None:
        self.reason = reason

    async def messages(self):
        for message in ():
            yield message


@pytest.fixture
def launched(tmp_path: Path, monkeypatch):
    """A launch whose supervisor is process `pid`."""

    def go(pid: int, refuse_seconds: float = 0.0):
        monkeypatch.setattr(os, "getpid", lambda: pid)
        monkeypatch.setattr(launch_module, "REFUSE_SECONDS", refuse_seconds)
        launch = Launch(tmp_path)
        parent = RankParent(lambda line: None)
        return launch, RankLaunch(launch.pool, tmp_path, launch.config, "m", lambda *_: [], parent, launch.events)

    return go


async def greet(rank_launch: RankLaunch, *, pid: int | None = None, **hello) -> Greeting:
    peer = Greeting(0, 2)
    peer.hello = RankHello(**{"rank": 0, "world_size": 2, "attempt": 1, **hello})
    peer.pid = pid
    await rank_launch.serve(peer)  # type: ignore[arg-type]
    return peer


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        ({"attempt": 0}, "launch 0 of the ranks is not under way"),
        ({"attempt": 2}, "launch 2 of the ranks is not under way"),
        ({"world_size": 1}, "rank 0 of 1, and this run has 2 ranks"),
        ({"world_size": 3}, "rank 0 of 3, and this run has 2 ranks"),
        ({"rank": -1}, "rank -1 of 2"),
        ({"rank": 2}, "rank 2 of 2"),
    ],
)
async def test_a_rank_of_another_launch_or_of_other_ranks_is_refused_without_any_effect(launched, hello, why):
    launch, rank_launch = launched(os.getppid())
    peer = await greet(rank_launch, pid=OWN, **hello)
    assert why in peer.reason
    assert (launch.pool.work.ranks, launch.pool.pids) == ({}, {})
    assert not rank_launch._first_lost.done()
    assert launch.pool.to_come == [0, 1]


async def test_a_process_that_the_run_did_not_start_is_refused(launched):
    launch, rank_launch = launched(OWN)
    peer = await greet(rank_launch, pid=os.getppid())
    assert peer.reason == f"process {os.getppid()} was not started by this run"
    assert launch.pool.pids == {}
    assert not rank_launch._first_lost.done()


async def test_a_rank_that_is_gone_before_its_greeting_is_read_is_known_by_its_parents_word(launched):
    launch, rank_launch = launched(OWN)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    greeting = asyncio.create_task(greet(rank_launch, pid=gone.pid))
    await asyncio.sleep(0.1)
    assert launch.pool.pids == {}
    rank_launch._hear(protocol.RankForked(rank=0, attempt=1, pid=gone.pid))
    assert (await greeting).reason is None
    assert launch.pool.pids == {0: gone.pid}


async def test_a_rank_whose_launch_ended_while_its_greeting_was_looked_into_is_refused_and_logged(launched):
    launch, rank_launch = launched(OWN)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    greeting = asyncio.create_task(greet(rank_launch, pid=gone.pid))
    await asyncio.sleep(0)
    launch.pool.close()
    rank_launch._hear(protocol.RankForked(rank=0, attempt=1, pid=gone.pid))
    why = "launch 1 of the ranks is not under way"
    assert (await greeting).reason == why
    assert (launch.state.log[-1].source, launch.state.log[-1].text) == ("supervisor", f"refused a rank: {why}")


async def test_a_process_that_is_gone_and_was_never_forked_is_refused(launched, monkeypatch):
    monkeypatch.setattr("rankdeck.runner.supervisor.launch.CONNECT_SECONDS", 0.1)
    launch, rank_launch = launched(OWN)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert "was not started by this run" in (await greet(rank_launch, pid=gone.pid)).reason
    assert launch.pool.pids == {}


async def test_one_who_tries_on_and_on_waits_each_time_and_is_logged_once(launched, monkeypatch, capsys):
    monkeypatch.setattr(launch_module, "MOST_TURNED_AWAY", 3)
    _, rank_launch = launched(OWN, refuse_seconds=3600.0)
    waiting = [asyncio.create_task(greet(rank_launch, pid=os.getppid())) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    at_once = await asyncio.wait_for(greet(rank_launch, pid=os.getppid()), 10)
    assert "was not started by this run" in at_once.reason, "there may be many: then none holds a descriptor"
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[2] for line in said] == [
        f"supervisor: refused a rank: process {os.getppid()} was not started by this run"
    ]
    for task in waiting:
        task.cancel()


async def test_a_rank_is_let_in_once(launched):
    launch, rank_launch = launched(os.getppid())
    assert (await greet(rank_launch, pid=OWN)).reason is None
    assert launch.pool.pids == {0: OWN}
    assert rank_launch._first_lost.result() == 0
    assert "has greeted already" in (await greet(rank_launch, pid=OWN)).reason


async def test_where_the_kernel_names_no_process_none_is_remembered(launched):
    launch, rank_launch = launched(os.getppid())
    assert (await greet(rank_launch, pid=None)).reason is None
    assert launch.pool.pids == {}


def test_whose_a_socket_is_comes_from_the_kernel(monkeypatch):
    here, there = socket.socketpair(socket.AF_UNIX)
    assert kernel.peer_process(here) == PeerProcess(os.getpid(), os.getuid())
    assert RankPeer.pid.fget(type("P", (), {"process": PeerProcess(7, 1)})) == 7  # type: ignore[attr-defined]
    monkeypatch.delattr(socket, "SO_PEERCRED")
    assert kernel.peer_process(here) is None
    here.close()
    there.close()


@pytest.mark.parametrize("pid", [-1, "a bystander"])
async def test_a_stranger_that_greets_as_a_rank_ends_neither_the_run_nor_a_bystander(launch, monkeypatch, pid):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.15")
    started = launch(PROMPTS)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    heard = []

    async def greeted(attempt: int) -> bytes:
        named = bystander.pid if pid == "a bystander" else pid
        reader, writer = await asyncio.open_unix_connection(str(run_directory.socket_path(started.directory)))
        writer.write(
            b'{"type":"rank_hello","version":1,"rank":0,"world_size":2,"pid":%d,"attempt":%d}\n' % (named, attempt)
        )
        answer = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        return answer

    async def greet_as_rank(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == 1:
            heard.extend(await asyncio.gather(*map(greeted, (1, 99, 1, 0))))

    try:
        state, _ = await watch(started, when=greet_as_rank)
        assert started.process.wait(20) == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert state.attempt == 1
    assert len(heard) == 4
    assert all(b"refused" in line for line in heard)
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS)


async def test_the_pids_of_ranks_are_those_of_their_processes(launch, standin_model):
    (standin_model / "hold").touch()
    started = launch(PROMPTS)
    sampled: set[int] = set()

    async def look(message, _):
        if isinstance(message, protocol.Tick) and message.processes:
            sampled.update(sample.rank for sample in message.processes if sample.rss_bytes)
        if sampled == {0, 1} and (standin_model / "hold").exists():
            assert len(rank_pids(started.directory)) == 2
            (standin_model / "hold").unlink(missing_ok=True)

    await watch(started, when=look)
    assert started.process.wait(20) == 0


async def test_with_few_descriptors_and_a_crowd_at_the_door_the_run_ends_as_any_other(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    started = launch(PROMPTS * 2)
    supervisor = psutil.Process(started.process.pid)
    crowd: list[socket.socket] = []

    async def come(message, _):
        if isinstance(message, protocol.BatchFinished) and message.batch == 2:
            assert supervisor.rlimit(psutil.RLIMIT_NOFILE)[0] == min(hard, kernel.MOST_DESCRIPTORS)
            supervisor.rlimit(psutil.RLIMIT_NOFILE, (48, hard))
            for number in range(150):
                one = socket.socket(socket.AF_UNIX)
                one.setblocking(False)
                crowd.append(one)
                try:
                    one.connect(str(run_directory.socket_path(started.directory)))
                    if number % 2:
                        one.send(b'{"type":"viewer_hello"}\n')
                except OSError:
                    await asyncio.sleep(0.01)

    state, _ = await watch(started, when=come)
    assert started.process.wait(30) == 0
    for one in crowd:
        one.close()
    assert len(crowd) == 150
    assert state.attempt == 1
    assert [record.text for record in outputs(started.directory)] == expected(PROMPTS * 2)
