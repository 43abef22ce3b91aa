"""The parent of the ranks and the tree of processes at their edges: what is spared, what is remembered, what is read of
what was printed."""

import asyncio
import os
import subprocess
import sys

import psutil
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.launching import parent as parent_module
from rankdeck.runner.launching import process_tree
from rankdeck.runner.launching.parent import KEPT_LINES, RankParent
from rankdeck.runner.launching.process_tree import ProcessTree, exit_status_of

SLEEP = ["sleep", "99"]


@pytest.fixture
def sleeper():
    started: list[subprocess.Popen] = []

    def start(*command: str) -> subprocess.Popen:
        started.append(subprocess.Popen(command or SLEEP))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


async def test_a_tree_that_adopts_nobody_leaves_this_processs_other_children_alone(sleeper):
    root, other = sleeper(), sleeper()
    await ProcessTree(root.pid, adopted=False).end()
    assert root.wait(10) == -15, "asked first, not killed"
    assert other.poll() is None


async def test_a_tree_that_adopts_ends_this_processs_other_children_but_those_to_spare(sleeper):
    root, other, spared = sleeper(), sleeper(), sleeper()
    # Other tests of this process may have children of their own: only these are there to be found.
    mine = {root.pid, other.pid, spared.pid}
    tree, everything = ProcessTree(root.pid, adopted=True), psutil.process_iter

    def iterate():
        return (process for process in everything() if process.pid in mine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_tree.psutil, "process_iter", iterate)
        await tree.end(spare={root.pid, spared.pid})
        assert root.poll() is None
        assert spared.poll() is None
        assert not psutil.pid_exists(other.pid), "it has been waited for as well"
        await tree.end()
    assert not psutil.pid_exists(spared.pid)
    assert root.wait(10) == -15, "the root is left to whoever started it"


async def test_a_process_that_is_not_there_is_not_remembered(sleeper):
    root = sleeper()
    tree = ProcessTree(root.pid, adopted=False)
    tree.remember(2**22 + 1)
    assert [process.pid for process in tree._found] == [root.pid]
    await tree.end()
    assert tree._found == set()


async def test_a_process_that_will_not_end_is_killed_after_a_while(sleeper, monkeypatch):
    monkeypatch.setattr(process_tree, "TERMINATE_SECONDS", 0.2)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(99)"
    )
    process = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"on\n"
    await ProcessTree(process.pid, adopted=False).end()
    process.stdout.close()
    assert process.wait(10) == -9


async def test_how_a_child_ended_is_told_once_it_has(sleeper):
    child = sleeper(sys.executable, "-c", "raise SystemExit(7)")
    async with asyncio.timeout(30):
        assert await exit_status_of(child.pid) == 7
    child.returncode = 7


# --- the parent ---


async def said_by(code: str, **more) -> tuple[RankParent, list[str]]:
    log: list[str] = []
    parent = RankParent(log.append, adopts_orphans=False, **more)
    await parent.start([sys.executable, "-c", code], {**os.environ, "TOLD": "this"})
    async with asyncio.timeout(30):
        await parent.gone()
        await parent.why_gone()
    return parent, log


async def test_what_is_printed_is_kept_whole_logged_without_blank_lines_and_both_streams_are_one():
    code = "import sys, os; print('one  '); print(); print('two', file=sys.stderr); os.write(1, b'\\xff\\n')"
    parent, log = await said_by(f"{code}; print(os.environ['TOLD'], os.getsid(0) == os.getpid(), flush=True)")
    try:
        assert sorted(parent.lines) == sorted(["one", "", "two", "\ufffd", "this True"]), "in a session of its own"
        assert sorted(log) == sorted(["one", "two", "\ufffd", "this True"])
    finally:
        await parent.end()


async def test_of_a_parent_that_prints_much_the_last_lines_are_kept_until_the_next_start():
    parent, log = await said_by(f"print('\\n'.join(map(str, range({KEPT_LINES + 5}))))")
    assert (parent.lines[0], parent.lines[-1], len(parent.lines)) == ("5", str(KEPT_LINES + 4), KEPT_LINES)
    assert len(log) == KEPT_LINES + 5
    await parent.start([sys.executable, "-c", "pass"], os.environ)
    assert list(parent.lines) == []
    await parent.end()
    assert KEPT_LINES == 400


async def test_a_parent_that_was_never_started_lives_not_and_takes_orders_without_effect():
    parent = RankParent(lambda line: None)
    assert (parent.lives, parent.pid) == (False, None)
    parent.order()
    parent.hear(None)
    async with asyncio.timeout(5):
        await parent.gone()
        await parent.end_ranks()
        await parent.end()


async def test_once_it_is_ended_nothing_of_it_is_left():
    parent = RankParent(lambda line: None, adopts_orphans=False)
    await parent.start(SLEEP, os.environ)
    process = parent._process
    assert parent.lives
    await parent.end()
    assert process.returncode is not None
    assert not parent.lives
    assert [parent._process, parent._tree, parent._writer, parent._talk, parent._printed] == [None] * 5


@pytest.mark.parametrize(("lives", "pid", "spared"), [(True, 7, {7}), (True, None, set()), (False, 7, set())])
async def test_the_parent_and_its_launcher_are_spared_only_while_it_lives_and_is_known(monkeypatch, lives, pid, spared):
    parent = RankParent(lambda line: None, adopts_orphans=False)
    await parent.start(SLEEP, os.environ)
    launcher, asked = parent._process.pid, []

    async def end(*, spare=()):
        asked.append(set(spare))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RankParent, "lives", lives)
        patch.setattr(parent._tree, "end", end)
        parent.pid = pid
        await parent.end_ranks()
    await parent.end()
    assert asked == [spared | ({launcher} if spared else set())]
    assert parent_module.MAX_LINE_BYTES == 2**20


def test_how_long_processes_are_waited_for_stays_as_it_is():
    """Long enough for a rank to leave, short enough for whoever presses Ctrl-C; looked at many times a second."""
    assert (process_tree.TERMINATE_SECONDS, process_tree.LOOK_SECONDS) == (3.0, 0.05)


async def test_a_rank_that_was_forked_is_remembered_before_anybody_hears_of_it_and_ended_with_the_rest(sleeper):
    rank, heard, seen = sleeper(), asyncio.Event(), []
    parent = RankParent(lambda line: None, adopts_orphans=False)
    code = "import os, sys, time; os.write(0, sys.argv[1].encode()); time.sleep(99)"
    reports = [protocol.ParentReady(pid=7), protocol.RankForked(rank=0, attempt=1, pid=rank.pid)]

    def hear(report):
        seen.append((report, parent.pid, rank.pid in {process.pid for process in parent._tree._found}))
        if isinstance(report, protocol.RankForked):
            heard.set()

    parent.hear = hear
    talk = b"".join(map(protocol.encode_line, reports)).decode()
    await parent.start([sys.executable, "-c", code, talk], os.environ)
    async with asyncio.timeout(30):
        await heard.wait()
    await parent.end()
    assert seen == [(reports[0], 7, False), (reports[1], 7, True)]
    assert not psutil.pid_exists(rank.pid) or rank.wait(10) == -15


async def test_reports_that_cannot_be_read_end_the_talk_and_those_before_are_heard():
    parent, heard = RankParent(lambda line: None, adopts_orphans=False), []
    parent.hear = heard.append
    forked = protocol.RankForked(rank=0, attempt=1, pid=2**22 + 1)
    reader = asyncio.StreamReader()
    for line in (protocol.encode_line(forked), b'{"type":"dance"}\n', protocol.encode_line(forked)):
        reader.feed_data(line)
    reader.feed_eof()
    await parent._listen(reader)
    assert heard == [forked]
    assert parent.pid is None, "only the parent itself says which process it is"


async def test_orders_are_lines_on_the_channel_and_none_once_it_closes():
    class Writer:
        closing = False

        def __init__(self) -> None:
            self.written = b""

        def is_closing(self) -> bool:
            return self.closing

        def write(self, lines: bytes) -> None:
            self.written += lines

    parent = RankParent(lambda line: None)
    parent._writer = writer = Writer()
    orders = [protocol.StartRank(rank=rank, world_size=2, attempt=3) for rank in range(2)]
    parent.order(*orders)
    assert writer.written == b"".join(map(protocol.encode_line, orders))
    writer.closing = True
    parent.order(*orders)
    assert len(writer.written) == len(b"".join(map(protocol.encode_line, orders)))


async def test_what_an_adopting_supervisor_takes_for_its_tree_is_said_by_whoever_made_it(monkeypatch):
    made = []
    monkeypatch.setattr(
        parent_module, "ProcessTree", lambda root, adopted: made.append(adopted) or ProcessTree(root, adopted=False)
    )
    for adopts in ({}, {"adopts_orphans": True}, {"adopts_orphans": False}):
        parent = RankParent(lambda line: None, **adopts)
        await parent.start(SLEEP, os.environ)
        await parent.end()
    assert made == [True, True, False]


async def test_last_words_are_waited_for_a_moment_and_no_longer(monkeypatch):
    waits = []

    async def wait(tasks, **how):
        waits.append(how)
        return set(), tasks

    parent = RankParent(lambda line: None)

    class Process:
        async def wait(self) -> int:
            return 3

    parent._process, parent._printed = Process(), asyncio.create_task(asyncio.Event().wait())
    parent.lines.append("OSError: no room")
    monkeypatch.setattr(parent_module.asyncio, "wait", wait)
    assert await parent.why_gone() == "accelerate launch ended with status 3: OSError: no room"
    assert waits == [{"timeout": 1.0}]
    parent._printed.cancel()
