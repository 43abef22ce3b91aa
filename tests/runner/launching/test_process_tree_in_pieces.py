"""How a tree of processes is found and ended, with made-up processes and a made-up clock: who is asked, and when."""

import os
from types import SimpleNamespace

import psutil
import pytest

from rankdeck.runner.launching import process_tree
from rankdeck.runner.launching.process_tree import ProcessTree

ME = 1000


class Box:
    """A machine with made-up processes: each a pid, its parent, what it takes to end it, and its status."""

    def __init__(self) -> None:
        self.now = 0.0
        self.processes: dict[int, FakeProcess] = {}
        self.asked: list[tuple[float, str, int]] = []
        self.reaped: list[int] = []
        self.later: dict[float, tuple[int, int]] = {}

    def add(self, pid: int, parent: int, *, stubborn: bool = False, status: str = "sleeping") -> None:
        self.processes[pid] = FakeProcess(self, pid, parent, stubborn, status)

    async def sleep(self, seconds: float) -> None:
        self.now = round(self.now + seconds, 6)
        for at, (pid, parent) in list(self.later.items()):
            if at <= self.now:
                del self.later[at]
                self.add(pid, parent)


class FakeProcess:
    def __init__(self, box: Box, pid: int, parent: int, stubborn: bool, status: str) -> None:
        self.box, self.pid, self.parent, self.stubborn, self._status = box, pid, parent, stubborn, status

    def ppid(self) -> int:
        if self._status == "hidden":
            raise psutil.AccessDenied
        return self.parent

    def is_running(self) -> bool:
        return self.pid in self.box.processes

    def status(self) -> str:
        if self._status == "hidden":
            raise psutil.AccessDenied
        return self._status

    def _end(self, how: str) -> None:
        self.box.asked.append((self.box.now, how, self.pid))
        if self._status == "vanishing":
            self.box.processes.pop(self.pid, None)
            raise psutil.NoSuchProcess(self.pid)
        if how == "kill" or not self.stubborn:
            self.box.processes.pop(self.pid, None)

    def terminate(self) -> None:
        self._end("terminate")

    def kill(self) -> None:
        self._end("kill")


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    made = Box()

    def process(pid: int) -> FakeProcess:
        if pid not in made.processes:
            raise psutil.NoSuchProcess(pid)
        return made.processes[pid]

    process.terminate, process.kill = FakeProcess.terminate, FakeProcess.kill  # type: ignore[attr-defined]
    fake = SimpleNamespace(
        Process=process,
        process_iter=lambda: list(made.processes.values()),
        Error=psutil.Error,
        STATUS_ZOMBIE=psutil.STATUS_ZOMBIE,
    )
    loop = SimpleNamespace(time=lambda: made.now)
    monkeypatch.setattr(process_tree, "psutil", fake)
    monkeypatch.setattr(process_tree, "asyncio", SimpleNamespace(get_running_loop=lambda: loop, sleep=made.sleep))
    monkeypatch.setattr(process_tree.os, "getpid", lambda: ME)
    monkeypatch.setattr(process_tree, "_reaped", made.reaped.append)
    return made


async def test_all_below_the_root_are_asked_once_and_what_stays_is_killed_after_three_seconds(box: Box) -> None:
    for pid, parent in ((1, ME), (2, 1), (3, 2), (9, ME), (8, 9)):
        box.add(pid, parent)
    box.processes[3].stubborn = True
    await ProcessTree(1, adopted=False).end()
    at = round(process_tree.TERMINATE_SECONDS / process_tree.LOOK_SECONDS) * process_tree.LOOK_SECONDS
    assert sorted(box.asked) == [
        (0.0, "terminate", 1), (0.0, "terminate", 2), (0.0, "terminate", 3), (pytest.approx(at), "kill", 3),
    ]  # fmt: skip
    assert set(box.processes) == {9, 8}, "they are nobody's here"
    assert {2, 3} <= set(box.reaped)
    assert 1 not in box.reaped, "whoever started it waits for it"


async def test_a_process_that_comes_while_the_others_end_is_ended_with_them(box: Box) -> None:
    box.add(1, ME, stubborn=True)
    box.later = {0.5: (7, 1)}
    await ProcessTree(1, adopted=False).end()
    assert [(how, pid) for _, how, pid in box.asked] == [("terminate", 1), ("terminate", 7), ("kill", 1)]
    assert box.asked[1][0] == pytest.approx(0.5)


async def test_orphans_are_found_by_whoever_adopts_them_and_by_nobody_else(box: Box) -> None:
    for adopted in (False, True):
        box.asked.clear()
        box.add(1, ME)
        box.add(5, ME)
        box.add(6, 5)
        await ProcessTree(1, adopted=adopted).end()
        assert sorted(pid for _, _, pid in box.asked) == ([1, 5, 6] if adopted else [1])


async def test_what_is_spared_is_neither_asked_nor_forgotten_but_what_is_below_it_is_ended(box: Box) -> None:
    for pid, parent in ((1, ME), (2, 1), (3, 2)):
        box.add(pid, parent)
    tree = ProcessTree(1, adopted=False)
    await tree.end(spare={1, 2})
    assert [pid for _, _, pid in box.asked] == [3]
    assert {process.pid for process in tree._found} == {1, 2}
    box.processes[2].parent = ME  # its parent is not asked any more
    await tree.end()
    assert sorted(pid for _, _, pid in box.asked[1:]) == [1, 2]
    assert tree._found == set()


@pytest.mark.parametrize("status", ["zombie", "hidden"])
async def test_what_has_ended_or_may_not_be_looked_at_is_not_waited_for(box: Box, status: str) -> None:
    box.add(1, ME, status=status)
    await ProcessTree(1, adopted=False).end()
    assert (box.asked, box.now) == ([], 0.0)


async def test_a_process_that_ends_before_it_can_be_asked_is_no_error(box: Box) -> None:
    box.add(1, ME, status="vanishing")
    await ProcessTree(1, adopted=False).end()
    assert [how for _, how, _ in box.asked] == ["terminate"]


async def test_a_process_that_is_remembered_is_ended_with_all_below_it(box: Box) -> None:
    box.add(1, ME)
    box.add(20, 1)  # by now: its parent was another
    box.processes[20].parent = 77
    box.add(21, 20)
    tree = ProcessTree(1, adopted=False)
    tree.remember(20)
    tree.remember(404)
    await tree.end()
    assert sorted(pid for _, _, pid in box.asked) == [1, 20, 21]


async def test_a_process_that_cannot_be_killed_is_given_up_after_another_three_seconds(box: Box) -> None:
    box.add(1, ME, stubborn=True)
    box.processes[1]._end = lambda how: box.asked.append((box.now, how, 1))  # type: ignore[method-assign]
    await ProcessTree(1, adopted=False).end()
    assert [how for _, how, _ in box.asked] == ["terminate", "kill"]
    assert box.now == pytest.approx(2 * process_tree.TERMINATE_SECONDS, abs=0.2)


@pytest.mark.parametrize(("answer", "status"), [((7, 3 << 8), 3), ((7, 15), -15), ((7, 0), 0), ((0, 0), None)])
def test_a_child_is_asked_without_waiting_and_what_is_no_child_has_no_status(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[int, int], status: int | None
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(process_tree.os, "waitpid", lambda *given: asked.append(given) or answer)
    assert process_tree._reaped(7) == status
    assert asked == [(7, os.WNOHANG)]

    def none(*_: int) -> None:
        raise ChildProcessError

    monkeypatch.setattr(process_tree.os, "waitpid", none)
    assert process_tree._reaped(7) is None
