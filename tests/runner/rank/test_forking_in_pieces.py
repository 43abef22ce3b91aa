"""The parent of the ranks at work, piece by piece, without a fork: what it tells, and what a forked rank does first."""

import os
import socket
import sys
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import FromParent, ParentReady, RankExited, RankForked, StartRank
from rankdeck.runner.rank import forking

ORDER = StartRank(rank=2, world_size=4, attempt=3, environment={"RANKDECK_TEST_OF_FORKS": "told"})


class Left(BaseException):
    """In the place of an exit on the spot."""


@pytest.fixture
def channel():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        yield SimpleNamespace(ours=ours, theirs=theirs)


def told(channel: SimpleNamespace) -> list[FromParent]:
    """What the supervisor was told; the parent's end is closed."""
    channel.theirs.close()
    with channel.ours.makefile("rb") as lines:
        return [msgspec.json.decode(line, type=FromParent) for line in lines]


def test_each_rank_that_has_ended_is_told_of_once_and_their_orphans_are_not(monkeypatch, channel):
    ends = [(11, 0), (99, 256), (12, 7 << 8), (13, 9), (0, 0)]
    monkeypatch.setattr(forking.os, "waitpid", lambda pid, how: ends.pop(0))
    ranks = {pid: StartRank(rank=rank, world_size=4, attempt=rank + 5) for rank, pid in enumerate((10, 11, 12, 13))}
    forking._tell_ends(channel.theirs, ranks)
    assert (ends, list(ranks)) == ([], [10])
    assert told(channel) == [
        RankExited(rank=1, attempt=6, status=0),
        RankExited(rank=2, attempt=7, status=7),
        RankExited(rank=3, attempt=8, status=-9),
    ]


def test_without_children_nothing_is_told(monkeypatch, channel):
    def none(*_: int) -> None:
        raise ChildProcessError

    monkeypatch.setattr(forking.os, "waitpid", none)
    forking._tell_ends(channel.theirs, {})
    assert told(channel) == []


def fork(monkeypatch, channel, pid: int | OSError) -> dict[int, StartRank]:
    def forks() -> int:
        if isinstance(pid, OSError):
            raise pid
        return pid

    ranks: dict[int, StartRank] = {}
    monkeypatch.setattr(forking.os, "fork", forks)
    forking._fork(channel.theirs, socket.socketpair(), ORDER, print, ("", ""), ranks)
    return ranks


def test_a_process_that_is_there_or_is_not_is_told_with_its_rank_and_launch(monkeypatch, channel):
    assert fork(monkeypatch, channel, 77) == {77: ORDER}
    assert fork(monkeypatch, channel, OSError(11, "try again")) == {}
    assert told(channel) == [
        RankForked(rank=2, attempt=3, pid=77),
        RankExited(rank=2, attempt=3, status=1, error="no new process: [Errno 11] try again"),
    ]


@pytest.fixture
def child(monkeypatch):
    """This process is the forked one: returns what it did, in order, and the status it would have left with."""

    def be(channel, be_a_rank) -> list[object]:
        did: list[object] = []

        def leave(status: int) -> None:
            did.append(status)
            raise Left

        signals = SimpleNamespace(
            set_wakeup_fd=lambda fd: did.append(("wakes", fd)),
            signal=lambda *what: did.append(what),
            SIGCHLD="SIGCHLD",
            SIG_DFL="default",
        )
        monkeypatch.setattr(forking, "signal", signals)
        monkeypatch.setattr(forking.os, "_exit", leave)
        monkeypatch.setattr(forking.os, "setsid", lambda: did.append("a session of its own"))
        monkeypatch.setattr(forking.processes, "rename", lambda *names: did.append(names))
        stdout = SimpleNamespace(flush=lambda: did.append("flushed"), write=sys.stdout.write)
        monkeypatch.setattr(forking.sys, "stdout", stdout)
        monkeypatch.setenv("RANKDECK_TEST_OF_FORKS", "before")
        monkeypatch.setattr(forking.os, "fork", lambda: 0)
        alarm = SimpleNamespace(close=lambda: did.append("closed")), SimpleNamespace(close=lambda: did.append("closed"))

        def lives(order: StartRank) -> None:
            did.append((order, os.environ["RANKDECK_TEST_OF_FORKS"]))
            be_a_rank()

        with pytest.raises(Left):
            forking._fork(channel.theirs, alarm, ORDER, lives, ("parent", "worker"), {})  # type: ignore[arg-type]
        return did

    return be


def test_a_forked_rank_lets_go_of_what_is_its_parents_and_has_what_the_order_says(child, channel):
    assert child(channel, lambda: None) == [
        ("wakes", -1),
        ("SIGCHLD", "default"),
        "closed",
        "closed",
        "a session of its own",
        ("rank 2", "parent", "worker"),
        (ORDER, "told"),
        "flushed",
        0,
    ]
    assert channel.theirs.fileno() == -1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SystemExit(0), 0),
        (SystemExit(7), 7),
        (SystemExit("in words"), 1),
        (ValueError("no such word"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_however_a_rank_ends_it_leaves_on_the_spot_with_its_status(child, channel, capsys, error, status):
    def fail() -> None:
        raise error

    *_, flushed, left = child(channel, fail)
    assert (flushed, left) == ("flushed", status)
    traced = "Traceback (most recent call last)" in capsys.readouterr().err
    assert traced is not isinstance(error, SystemExit)


# --- serving ---


@pytest.fixture
def serving(monkeypatch, channel):
    """Serves until the supervisor hangs up; returns what happened, in order."""

    def serve(*sent: bytes) -> list[object]:
        did: list[object] = []
        signals = SimpleNamespace(
            set_wakeup_fd=lambda fd, *, warn_on_full_buffer: did.append(("wakes", warn_on_full_buffer)),
            signal=lambda number, handler: did.append((number, callable(handler))),
            SIGCHLD="SIGCHLD",
        )

        def end() -> None:
            did.append("ends all")
            raise Left

        monkeypatch.setattr(forking, "signal", signals)
        monkeypatch.setattr(forking.processes, "adopt_orphans", lambda: did.append("adopts"))
        monkeypatch.setattr(forking.processes, "outlive_parent", lambda: did.append("outlives the launcher"))
        monkeypatch.setattr(forking, "_end_all", end)
        monkeypatch.setattr(
            forking, "_fork", lambda channel, alarm, order, rank, named, ranks: did.append((order.rank, rank, named))
        )
        for one in sent:
            channel.ours.sendall(one)
        channel.ours.shutdown(socket.SHUT_WR)
        with pytest.raises(Left):
            forking.serve(channel.theirs, print, named=("a", "b"))
        return did

    return serve


def test_it_outlives_its_launcher_adopts_what_ranks_leave_and_ends_with_the_supervisor(serving, channel):
    orders = [protocol.encode_line(StartRank(rank=rank, world_size=3)) for rank in range(3)]
    assert serving(*orders) == [
        "adopts",
        "outlives the launcher",
        ("wakes", False),
        ("SIGCHLD", True),
        *((rank, print, ("a", "b")) for rank in range(3)),
        "ends all",
    ]
    assert told(channel) == [ParentReady(pid=os.getpid())]


def test_half_an_order_is_none_and_a_supervisor_that_is_reset_is_gone(serving, channel):
    assert serving(b'{"type":"start_rank"')[-1] == "ends all"

    class Reset:
        def fileno(self) -> int:
            return channel.theirs.fileno()

        def recv(self, _: int) -> bytes:
            raise ConnectionResetError

        def sendall(self, _: bytes) -> None:
            raise BrokenPipeError

    with pytest.raises(Left):
        forking.serve(Reset(), print, named=("", ""))  # type: ignore[arg-type]


def test_every_process_below_is_killed_until_none_is_left(monkeypatch):
    killed: list[int] = []
    waits = [True, True, False]

    class Child:
        def __init__(self, pid: int) -> None:
            self.pid = pid

        def kill(self) -> None:
            killed.append(self.pid)
            if self.pid == 1:
                raise psutil.NoSuchProcess(1)

    def children(recursive: bool = False) -> list[Child]:
        return [Child(1), Child(2)] if recursive else []

    def waitpid(pid: int, how: int) -> tuple[int, int]:
        assert (pid, how) == (-1, 0)
        if not waits.pop(0):
            raise ChildProcessError
        return 2, 0

    def leave(status: int) -> None:
        killed.append(-status)
        raise Left

    monkeypatch.setattr(forking.psutil, "Process", lambda: SimpleNamespace(children=children))
    monkeypatch.setattr(forking.os, "waitpid", waitpid)
    monkeypatch.setattr(forking.os, "_exit", leave)
    with pytest.raises(Left):
        forking._end_all()
    assert killed == [1, 2, 1, 2, 1, 2, 0]


def test_the_channel_is_taken_from_standard_input_which_is_empty_then(tmp_path):
    ours, theirs = socket.socketpair()
    before = os.dup(0)
    try:
        os.dup2(theirs.fileno(), 0)
        taken = forking.take_channel()
        ours.sendall(b"to the channel")
        assert taken.recv(100) == b"to the channel"
        assert os.read(0, 10) == b""
        assert taken.fileno() != 0
        assert not os.get_inheritable(taken.fileno())
        taken.close()
    finally:
        os.dup2(before, 0)
        os.close(before)
        ours.close()
        theirs.close()
