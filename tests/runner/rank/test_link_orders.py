"""What a rank learns from each order, and what it says when its connection ends: the link in this process."""

import contextlib
import io
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import Leave, Prompt, Work
from rankdeck.runner.rank import link as link_module
from rankdeck.runner.rank.link import SUPERVISOR_GONE_STATUS, Link

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
"""Threads end by SystemExit here, where the process would."""


class Supervisor:
    """The other end of a rank's connection. `left` gets the status that the rank would have ended with."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: list[int] = []
        self.gone = threading.Event()
        self.words = io.StringIO()

        def leave(status: int) -> None:
            self.left.append(status)
            self.gone.set()
            raise SystemExit  # ends the thread, as it would the process

        monkeypatch.setattr(link_module.os, "_exit", leave)
        monkeypatch.setattr(link_module, "sys", SimpleNamespace(stderr=self.words))
        before = set(threading.enumerate())
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            self.link = Link(str(path))
            self.socket, _ = server.accept()
        (self.receiver,) = (
            thread for thread in threading.enumerate() if thread not in before and thread.name == "receive"
        )
        self.socket.settimeout(30)
        self.lines = self.socket.makefile("rb")

    def say(self, *orders: msgspec.Struct) -> None:
        self.socket.sendall(b"".join(map(protocol.encode_line, orders)))

    def heard(self) -> protocol.FromRank:
        return msgspec.json.decode(self.lines.readline(), type=protocol.FromRank)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.lines.close()
        self.socket.close()


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    made = Supervisor(tmp_path / "socket", monkeypatch)
    yield made
    made.link._closing = True
    made.hang_up()
    made.link.close()


def work(batch: int) -> Work:
    return Work(batch=batch, prompts=[Prompt(index=0, id="0", text="a")])


def test_orders_come_one_after_the_other_and_the_knobs_are_what_was_said_last(supervisor):
    link = supervisor.link
    assert (link.sharing, link.limit, link.next_order_now()) == (None, None, None)
    supervisor.say(
        protocol.ShareCores(ranks=5),
        protocol.Limit(rows=7),
        work(1),
        protocol.ShareCores(ranks=3),
        protocol.Limit(rows=0),
        work(2),
        Leave(gather=True),
    )
    assert link.next_order() == work(1)
    assert link.next_order() == work(2)
    assert (link.sharing, link.limit) == (3, 0)
    assert link.next_order() == Leave(gather=True)
    assert link.next_order_now() is None


def test_an_order_that_has_arrived_is_had_without_waiting(supervisor):
    supervisor.say(work(1), work(2))
    supervisor.link.next_order()
    found = None
    while found is None:
        found = supervisor.link.next_order_now()
    assert found == work(2)


def test_nothing_is_cancelled_before_it_is_said(supervisor):
    assert not supervisor.link.cancelled(1)
    supervisor.say(protocol.Cancel(batch=1), Leave())
    supervisor.link.next_order()
    assert supervisor.link.cancelled(1)
    assert not supervisor.link.cancelled(2)


def test_a_rank_that_closes_hangs_up_without_a_word_of_a_supervisor_that_is_gone(supervisor):
    supervisor.link.send(protocol.RankFailed(rank=1, error="x", traceback="y"))
    supervisor.link.close()
    assert supervisor.heard() == protocol.RankFailed(rank=1, error="x", traceback="y")
    supervisor.hang_up()
    supervisor.receiver.join(30)
    assert supervisor.left == []
    assert supervisor.words.getvalue() == ""


def test_progress_alone_is_sent_and_once(supervisor):
    steps = protocol.StepsInFlight(rank=0, batch=1, step=2, output_tokens=3)
    supervisor.link.progress(steps)
    assert supervisor.heard() == protocol.Steps(steps=steps)
    supervisor.link.send(protocol.LogLine(source="rank 0", text="after it"))
    assert supervisor.heard().text == "after it"


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (b"", "the supervisor is gone; leaving\n"),
        (protocol.encode_line(protocol.Refused(reason="too late")), "refused by the supervisor: too late; leaving\n"),
        (
            b'{"type":"dance"}\n',
            "lost the connection to the supervisor: Invalid value 'dance' - at `$.type`; leaving\n",
        ),
    ],
    ids=["gone", "refused", "nonsense"],
)
def test_why_a_rank_leaves_without_its_supervisor_stands_in_its_log(supervisor, last, said):
    supervisor.socket.sendall(last)
    if not last:
        supervisor.hang_up()
    assert supervisor.gone.wait(30)
    assert supervisor.left == [SUPERVISOR_GONE_STATUS] == [70]
    assert supervisor.words.getvalue() == said


def test_the_wait_for_the_others_is_over_only_at_the_same_point(supervisor):
    met = threading.Event()
    waiting = threading.Thread(target=lambda: (supervisor.link.meet(4, "limits"), met.set()))
    waiting.start()
    assert supervisor.heard() == protocol.Arrived(rank=4, at="limits")
    supervisor.say(protocol.GoOn(at="memory seen"), work(9))
    assert supervisor.link.next_order() == work(9), "the other point has been read"
    assert not met.is_set()
    supervisor.say(protocol.GoOn(at="limits"))
    waiting.join(30)
    assert met.is_set()


def test_a_rank_may_say_that_it_has_come_without_waiting_and_work_reaches_it_all_the_same(supervisor):
    supervisor.link.arrive(4, "limits")
    assert supervisor.heard() == protocol.Arrived(rank=4, at="limits")
    supervisor.say(protocol.GoOn(at="limits"), work(9))
    assert supervisor.link.next_order() == work(9)


def test_a_rank_that_can_send_nothing_any_more_leaves(supervisor, monkeypatch):
    class Broken:
        def __init__(self, real):
            self.real = real

        def sendall(self, data):
            raise BrokenPipeError

        def close(self):
            self.real.close()

    supervisor.link._socket = Broken(supervisor.link._socket)
    supervisor.link.send(protocol.LogLine(source="rank 0", text="x"))
    assert supervisor.gone.wait(30)
    assert supervisor.left[0] == SUPERVISOR_GONE_STATUS
    assert supervisor.words.getvalue().startswith("the supervisor is gone; leaving\n")


def test_messages_that_were_handed_over_together_stay_in_order_before_progress(supervisor):
    link = supervisor.link
    steps = [protocol.StepsInFlight(rank=0, batch=1, step=step, output_tokens=1) for step in (1, 2)]
    with link._ready:  # the sender comes to nothing before all of it is there
        link.send(*(protocol.LogLine(source="rank 0", text=text) for text in "ab"))
        link.progress(steps[0])
        link.progress(steps[1])
    heard = [supervisor.heard() for _ in range(3)]
    assert [getattr(one, "text", None) for one in heard] == ["a", "b", None]
    assert heard[2] == protocol.Steps(steps=steps[1])
