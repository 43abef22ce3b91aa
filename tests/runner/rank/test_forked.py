"""What the ranks' parent does with an order, and what becomes of the process that it forks: step by step in this
process, where nothing is forked."""

import os
import signal
from types import SimpleNamespace

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import ParentReady, RankExited, RankForked, StartRank
from rankdeck.runner.rank import forking

ORDER = StartRank(rank=3, world_size=4, attempt=2, environment={"RANKDECK_GPUS": "GPU-1"})
NAMED = ("the parent", "a rank")


class Left(BaseException):
    """In the place of an exit on the spot."""


class Socket:
    def __init__(self, name: str, done: list, arrive=()) -> None:
        self.name, self.done, self.arrive = name, done, list(arrive)

    def close(self) -> None:
        self.done.append(f"{self.name} closed")

    def fileno(self) -> int:
        return {"channel": 101, "wakes": 102, "woken": 103}[self.name]

    def setblocking(self, flag: bool) -> None:
        self.done.append(f"{self.name} blocks: {flag}")

    def recv(self, count: int) -> bytes:
        assert count == forking.READ_BYTES
        came = self.arrive.pop(0)
        if isinstance(came, Exception):
            raise came
        return came


@pytest.fixture
def done(monkeypatch):
    """What was done, in order; the process is the fork's child where `fork` says 0."""
    did: list = []

    def leave(status: int) -> None:
        did.append(("left", status))
        raise Left

    monkeypatch.setenv("RANKDECK_GPUS", "of the launch before")
    monkeypatch.setattr(forking, "tell", lambda channel, report: did.append((channel.name, report)))
    monkeypatch.setattr(forking.os, "setsid", lambda: did.append("a session of its own"))
    monkeypatch.setattr(forking.os, "_exit", leave)
    monkeypatch.setattr(forking.signal, "set_wakeup_fd", lambda fd, **how: did.append(("wakes", fd, how)))
    monkeypatch.setattr(forking.signal, "signal", lambda number, what: did.append((number, what)))
    for name in ("adopt_orphans", "outlive_parent", "rename"):
        monkeypatch.setattr(forking.processes, name, lambda *given, name=name: did.append((name, *given)))
    monkeypatch.setattr(forking, "sys", SimpleNamespace(stdout=SimpleNamespace(flush=lambda: did.append("flushed"))))
    return did


def fork(done, monkeypatch, pid, be_a_rank=lambda order: None) -> dict[int, StartRank]:
    def os_fork():
        if isinstance(pid, Exception):
            raise pid
        return pid

    monkeypatch.setattr(forking.os, "fork", os_fork)
    channel, *alarm = (Socket(name, done) for name in ("channel", "wakes", "woken"))
    ranks: dict[int, StartRank] = {}
    try:
        forking._fork(channel, tuple(alarm), ORDER, be_a_rank, NAMED, ranks)
    except Left:
        assert pid == 0
    return ranks


def test_the_parent_knows_each_rank_by_its_process_and_tells_of_it(done, monkeypatch):
    assert fork(done, monkeypatch, 77) == {77: ORDER}
    assert done == [("channel", RankForked(rank=3, attempt=2, pid=77))]
    assert os.environ["RANKDECK_GPUS"] == "of the launch before"


def test_a_process_that_cannot_be_made_has_ended_already(done, monkeypatch):
    assert fork(done, monkeypatch, OSError(11, "try again")) == {}
    said = "no new process: [Errno 11] try again"
    assert done == [("channel", RankExited(rank=3, attempt=2, status=1, error=said))]


def test_a_forked_process_lets_go_of_all_that_is_its_parents_before_it_is_a_rank(done, monkeypatch):
    fork(done, monkeypatch, 0, lambda order: done.append((order, os.environ["RANKDECK_GPUS"])))
    assert done == [
        ("wakes", -1, {}),
        (signal.SIGCHLD, signal.SIG_DFL),
        "channel closed",
        "wakes closed",
        "woken closed",
        "a session of its own",
        ("rename", "rank 3", *NAMED),
        (ORDER, "GPU-1"),
        "flushed",
        ("left", 0),
    ]


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (SystemExit(0), 0),
        (SystemExit(5), 5),
        (SystemExit("words"), 1),
        (ValueError("bad"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_how_a_rank_is_left_is_its_status_and_an_error_is_printed(done, monkeypatch, capsys, raised, status):
    def be_a_rank(order):
        raise raised

    fork(done, monkeypatch, 0, be_a_rank)
    assert done[-2:] == ["flushed", ("left", status)]
    assert ("Traceback" in capsys.readouterr().err) == (not isinstance(raised, SystemExit))


@pytest.mark.parametrize(
    ("ended", "told", "left"),
    [
        ([(77, 0), (0, 0)], [RankExited(rank=3, attempt=2, status=0)], {78}),
        ([(77, 5 << 8), ChildProcessError()], [RankExited(rank=3, attempt=2, status=5)], {78}),
        (
            [(99, 0), (78, 9), (77, 11), (0, 0)],
            [RankExited(rank=0, attempt=1, status=-9), RankExited(rank=3, attempt=2, status=-11)],
            set(),
        ),
        ([(0, 0)], [], {77, 78}),
    ],
)
def test_all_ranks_that_have_ended_are_told_of_at_once_and_orphans_of_theirs_are_not(
    done, monkeypatch, ended, told, left
):
    def waitpid(pid, flags):
        assert (pid, flags) == (-1, os.WNOHANG)
        came = ended.pop(0)
        if isinstance(came, Exception):
            raise came
        return came

    monkeypatch.setattr(forking.os, "waitpid", waitpid)
    ranks = {77: ORDER, 78: StartRank(rank=0, world_size=4)}
    forking._tell_ends(Socket("channel", done), ranks)
    assert [report for _, report in done] == told
    assert set(ranks) == left


def served(monkeypatch, done, arrive, ready) -> list:
    """Serve until all is gone, with these descriptors ready look by look; returns the orders that were forked."""
    forked: list = []
    channel, wakes, woken = Socket("channel", done, arrive), Socket("wakes", done, [b"x"] * 9), Socket("woken", done)

    class Poll:
        def register(self, one, events):
            assert events == forking.select.POLLIN
            done.append(f"looks at {one.name}")

        def poll(self):
            return [(name, 1) for name in ready.pop(0)]

    def end_all():
        done.append("all ended")
        raise Left

    monkeypatch.setattr(forking.socket, "socketpair", lambda: (wakes, woken))
    monkeypatch.setattr(forking.select, "poll", Poll)
    monkeypatch.setattr(forking, "_end_all", end_all)
    monkeypatch.setattr(forking, "_tell_ends", lambda *given: done.append(("ends", given[0].name)))
    monkeypatch.setattr(
        forking, "_fork",
        lambda of, alarm, *more: forked.append((of.name, [one.name for one in alarm], *more[:3])),
    )  # fmt: skip
    with pytest.raises(Left):
        forking.serve(channel, "be a rank", named=NAMED)
    return forked


def test_the_parent_is_ready_once_it_outlives_its_launcher_and_hears_of_ends(done, monkeypatch):
    assert served(monkeypatch, done, [b""], [[101]]) == []
    child, heard = done.pop(4)
    assert child == signal.SIGCHLD
    assert callable(heard), "not ignored: the kernel would keep the status to itself"
    assert done == [
        ("adopt_orphans",),
        ("outlive_parent",),
        "woken blocks: False",
        ("wakes", 103, {"warn_on_full_buffer": False}),
        "looks at channel",
        "looks at wakes",
        ("channel", ParentReady(pid=os.getpid())),
        "all ended",
    ]


def test_orders_are_forked_as_they_come_in_parts_or_several_at_once_and_ends_are_told_in_between(done, monkeypatch):
    lines = [protocol.encode_line(StartRank(rank=rank, world_size=4)) for rank in range(3)]
    arrive = [lines[0] + lines[1][:9], lines[1][9:] + lines[2], OSError("reset")]
    forked = served(monkeypatch, done, arrive, [[101], [102], [101, 102], [101]])
    assert [order.rank for _, _, order, *_ in forked] == [0, 1, 2]
    assert {(of, *alarm, rank, *named) for of, alarm, _, rank, named in forked} == {
        ("channel", "wakes", "woken", "be a rank", *NAMED)
    }
    assert done.count(("ends", "channel")) == 2
    assert done[-1] == "all ended", "a connection that broke is one that is gone"


def test_a_supervisor_that_is_gone_hears_nothing_and_that_is_no_error():
    class Gone:
        def sendall(self, data):
            raise BrokenPipeError

    forking.tell(Gone(), ParentReady(pid=1))
    sent = []
    forking.tell(SimpleNamespace(sendall=sent.append), ParentReady(pid=1))
    assert sent == [protocol.encode_line(ParentReady(pid=1))]
