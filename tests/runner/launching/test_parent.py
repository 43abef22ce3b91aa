"""The parent of the ranks, seen from the supervisor: a real process that forks real ones, without torch."""

import asyncio
import os
import signal
import sys

import psutil
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.launching.parent import MAX_LINE_BYTES, RankParent
from rankdeck.runner.protocol import ParentReady, RankExited, RankForked, StartRank

PARENT = """
import os, signal, sys, time
from rankdeck.runner.rank import forking

def be_a_rank(order):
    what = order.environment.get("WHAT", "stay")
    if what == "stay":
        time.sleep(99)
    elif what == "print":
        print(f"rank {order.rank} of {order.world_size}", flush=True)
    elif what.startswith("exit "):
        print("before it leaves")
        sys.exit(int(what[5:]) if what[5:].isdigit() else what[5:])
    elif what == "raise":
        raise ValueError("no such word")
    elif what == "leave a child":
        if not os.fork():
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(99)
    else:
        os.kill(os.getpid(), getattr(signal, what))

forking.serve(forking.take_channel(), be_a_rank, named=("", ""))
"""
COMMAND = [sys.executable, "-c", PARENT]
SUPERVISOR = """
import asyncio, os, sys
from rankdeck.runner.launching.parent import RankParent

async def main():
    parent = RankParent(lambda line: print(line, flush=True))
    await parent.start(["sh", "-c", "echo $$; exec sleep 600 <&-"], os.environ)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def order(rank: int, what: str = "stay", attempt: int = 1) -> StartRank:
    return StartRank(rank=rank, world_size=2, attempt=attempt, environment={"WHAT": what})


class Heard:
    """What a parent reports, and waiting for a report."""

    def __init__(self, parent: RankParent) -> None:
        self.reports: list[protocol.FromParent] = []
        self._came = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        parent.hear = self._hear

    def _hear(self, report: protocol.FromParent) -> None:
        self.reports.append(report)
        task = asyncio.create_task(self._tell())
        self._tasks.add(task)

    async def _tell(self) -> None:
        async with self._came:
            self._came.notify_all()

    async def until(self, kind: type, count: int = 1) -> list:
        async with asyncio.timeout(30), self._came:
            await self._came.wait_for(lambda: len(self.of(kind)) >= count)
        return self.of(kind)

    def of(self, kind: type) -> list:
        return [report for report in self.reports if isinstance(report, kind)]


@pytest.fixture
async def parent():
    log: list[str] = []
    made = RankParent(log.append, adopts_orphans=False)
    made.log = log
    await made.start(COMMAND, os.environ)
    yield made
    await made.end()


def is_there(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def until_gone(*pids: int) -> None:
    async with asyncio.timeout(30):
        while any(is_there(pid) for pid in pids):
            await asyncio.sleep(0.02)


async def test_each_rank_is_a_process_of_its_own_in_a_session_of_its_own(parent):
    heard = Heard(parent)
    parent.order(order(0), order(1))
    forked = await heard.until(RankForked, 2)
    (ready,) = heard.of(ParentReady)
    assert [report.rank for report in forked] == [0, 1]
    pids = [report.pid for report in forked]
    assert [psutil.Process(pid).ppid() for pid in pids] == [ready.pid] * 2
    async with asyncio.timeout(30):
        while [psutil.Process(pid).name() for pid in pids] != ["rank 0", "rank 1"]:
            await asyncio.sleep(0.02)
    assert [os.getsid(pid) for pid in pids] == pids


async def test_how_a_rank_ended_is_told_of_that_rank_by_the_kernel(parent):
    heard = Heard(parent)
    parent.order(order(0), order(1, "SIGSEGV", attempt=3))
    (exited,) = await heard.until(RankExited)
    assert exited == RankExited(rank=1, attempt=3, status=-signal.SIGSEGV)
    first, _ = heard.of(RankForked)
    os.kill(first.pid, signal.SIGKILL)
    _, exited = await heard.until(RankExited, 2)
    assert exited == RankExited(rank=0, attempt=1, status=-signal.SIGKILL)


async def test_ranks_may_come_at_any_time_and_what_they_print_is_heard(parent):
    heard = Heard(parent)
    parent.order(order(0, "print"))
    await heard.until(RankExited)
    parent.order(order(1, "print", attempt=2))
    ends = await heard.until(RankExited, 2)
    assert [(end.rank, end.attempt, end.status) for end in ends] == [(0, 1, 0), (1, 2, 0)]
    await parent.end()
    assert parent.log == ["rank 0 of 2", "rank 1 of 2"]


async def test_a_rank_that_raises_says_what_and_ends_with_1(parent):
    heard = Heard(parent)
    parent.order(order(0, "raise"))
    (exited,) = await heard.until(RankExited)
    assert exited.status == 1
    await parent.end()
    assert parent.log[-1] == "ValueError: no such word"


@pytest.mark.parametrize(("how", "status"), [("0", 0), ("7", 7), ("in words", 1)])
async def test_a_rank_that_leaves_ends_with_the_status_it_left_with_and_what_it_printed_is_heard(parent, how, status):
    heard = Heard(parent)
    parent.order(order(0, f"exit {how}"))
    (exited,) = await heard.until(RankExited)
    assert (exited.status, exited.error) == (status, None)
    await parent.end()
    assert parent.log == ["before it leaves"]


async def test_the_ranks_are_ended_and_the_parent_stays_for_the_next_launch(parent):
    heard = Heard(parent)
    parent.order(order(0), order(1, "leave a child"))
    forked = await heard.until(RankForked, 2)
    await heard.until(RankExited)
    (ready,) = heard.of(ParentReady)
    grandchild = next(one.pid for one in psutil.Process(ready.pid).children() if one.pid != forked[0].pid)
    await parent.end_ranks()
    assert not is_there(forked[0].pid)
    assert not is_there(grandchild), "a child that a rank left behind, in a session of its own"
    assert parent.lives
    parent.order(order(0, "print", attempt=2))
    ends = await heard.until(RankExited, 3)
    assert ends[-1] == RankExited(rank=0, attempt=2, status=0)


async def test_when_the_parent_dies_the_ranks_go_on_until_they_are_ended(parent):
    heard = Heard(parent)
    parent.order(order(0))
    (forked,) = await heard.until(RankForked)
    os.kill(heard.of(ParentReady)[0].pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        await parent.gone()
    assert not parent.lives
    assert is_there(forked.pid)
    parent.order(order(1))  # nobody hears it
    await parent.end_ranks()
    assert not is_there(forked.pid)


async def test_a_rank_that_has_not_connected_does_not_outlive_the_supervisor(parent):
    heard = Heard(parent)
    parent.order(order(0), order(1, "leave a child"))
    forked = await heard.until(RankForked, 2)
    await heard.until(RankExited)
    (ready,) = heard.of(ParentReady)
    others = [one.pid for one in psutil.Process(ready.pid).children()]
    assert forked[0].pid in others
    assert len(others) == 2
    parent._writer.close()  # as the kernel does when the supervisor dies
    await until_gone(ready.pid, *others)


async def test_a_launcher_that_has_yet_to_start_the_parent_does_not_outlive_the_supervisor():
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISOR), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        launcher = int(await supervisor.stdout.readline())
        assert is_there(launcher)
        supervisor.kill()
        await supervisor.wait()
        await until_gone(launcher)


async def test_a_parent_that_is_gone_is_started_anew_and_says_what_it_died_of(parent):
    heard = Heard(parent)
    await heard.until(ParentReady)
    await parent.start([sys.executable, "-c", "raise ImportError('no torch')"], os.environ)
    async with asyncio.timeout(30):
        await parent.gone()
        assert await parent.why_gone() == "accelerate launch ended with status 1: ImportError: no torch"
    await parent.start(COMMAND, os.environ)
    parent.order(order(0, "print"))
    (exited,) = await heard.until(RankExited)
    assert exited.status == 0
    assert "ImportError" not in "".join(parent.lines)


async def test_a_launcher_that_cannot_be_started_leaves_nothing_behind():
    made = RankParent(lambda line: None, adopts_orphans=False)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        await made.start(["/does/not/exist"], {})
    assert len(os.listdir("/proc/self/fd")) == before
    assert not made.lives
    await made.end()


async def test_after_a_line_that_is_too_long_what_the_parent_prints_is_still_read(parent):
    talk = f"print('x' * {3 * MAX_LINE_BYTES}); print('the end')"
    await parent.start([sys.executable, "-c", talk], os.environ)
    async with asyncio.timeout(30):
        await parent.gone()
        assert await parent.why_gone() == "accelerate launch ended with status 0: the end"
    assert parent.log[-1] == "the end"


async def test_a_parent_that_talks_nonsense_counts_as_gone():
    made = RankParent(lambda line: None, adopts_orphans=False)
    code = "import socket, time; socket.socket(fileno=0).send(b'nonsense\\n'); time.sleep(99)"
    await made.start([sys.executable, "-c", code], os.environ)
    async with asyncio.timeout(30):
        await made.gone()
    await made.end()


async def test_a_process_that_cannot_be_forked_is_told_with_the_reason():
    code = PARENT.replace(
        "forking.serve(", "os.fork = lambda: (_ for _ in ()).throw(OSError(11, 'try again'))\nforking.serve("
    )
    made = RankParent(lambda line: None, adopts_orphans=False)
    heard = Heard(made)
    await made.start([sys.executable, "-c", code], os.environ)
    try:
        made.order(order(0))
        (exited,) = await heard.until(RankExited)
        assert (exited.status, exited.error) == (1, "no new process: [Errno 11] try again")
    finally:
        await made.end()


async def test_the_process_of_a_parent_is_known_while_it_imports(parent):
    imports = "from rankdeck.runner.rank import forking; import os, time; channel = forking.take_channel()"
    told = "forking.tell(channel, forking.protocol.ParentImporting(pid=os.getpid())); time.sleep(99)"
    heard = Heard(parent)
    await parent.start([sys.executable, "-c", f"{imports}; {told}"], os.environ)
    await heard.until(protocol.ParentImporting)
    assert parent.pid == heard.of(protocol.ParentImporting)[0].pid
    await parent.end()
    assert parent.pid is None
