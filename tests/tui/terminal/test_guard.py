"""What the guard of a terminal does once its dashboard is gone, by what it was told until then."""

import os
import pty
import signal
import subprocess
import sys
import termios

import pytest

from rankdeck.tui.terminal import guard

WATCH = """
import os, sys, termios
from rankdeck.tui.terminal import guard
read_end, write_end = os.pipe()
os.write(write_end, sys.argv[1].encode())
os.close(write_end)
guard._watch(read_end, termios.tcgetattr(0), set(), "RESTORED")
"""


@pytest.mark.parametrize(("told", "restored"), [("+", True), ("+-+", True), ("+-", False), ("", False)])
def test_only_a_terminal_that_was_not_given_back_is_restored_even_if_all_was_told_at_once(told, restored):
    terminal, of_guard = pty.openpty()
    try:
        # The shell is a session of its own without a terminal, as in a container: there is no foreground to ask for.
        command = ["setsid", "--wait", "sh", "-c", 'python=$1; shift; "$python" -c "$@"; true', "sh", sys.executable]
        subprocess.run([*command, WATCH, told], stdin=of_guard, stderr=of_guard, stdout=subprocess.DEVNULL, check=True)
        os.write(of_guard, b"|")
        assert (b"RESTORED" in os.read(terminal, 1024)) == restored
    finally:
        os.close(terminal)
        os.close(of_guard)


# --- without a terminal: the system is stood in for ------------------------------------------------


class System:
    """The calls that a guard makes, and what they return."""

    def __init__(self, *words: bytes, foreground: int | OSError = 5, local: int = 0) -> None:
        self.words, self.foreground, self.local = list(words), foreground, local
        self.done: list[tuple[object, ...]] = []

    def read(self, descriptor: int, most: int) -> bytes:
        assert descriptor == 1
        return self.words.pop(0) if self.words else b""

    def tcgetpgrp(self, descriptor: int) -> int:
        assert descriptor == 0
        if isinstance(self.foreground, OSError):
            raise self.foreground
        return self.foreground

    def tcgetattr(self, descriptor: int) -> list[int]:
        assert descriptor == 0
        return [0, 0, 0, self.local]

    def watch(self, monkeypatch: pytest.MonkeyPatch, theirs: set[int]) -> None:
        for name in ("setpgid", "dup2", "closerange", "write"):
            monkeypatch.setattr(guard.os, name, lambda *given, name=name: self.done.append((name, *given)))
        for name in ("read", "tcgetpgrp"):
            monkeypatch.setattr(guard.os, name, getattr(self, name))
        monkeypatch.setattr(guard.signal, "signal", lambda *given: self.done.append(("signal", *given)))
        monkeypatch.setattr(guard.termios, "tcgetattr", self.tcgetattr)
        monkeypatch.setattr(guard.termios, "tcsetattr", lambda *given: self.done.append(("tcsetattr", *given)))
        try:
            guard._watch(7, [1, 2, 3], theirs, "RESET")
        finally:
            monkeypatch.undo()


RESTORED = ("write", 2, b"RESET")
SET_BACK = ("tcsetattr", 0, termios.TCSANOW, [1, 2, 3])


def test_a_guard_lives_through_what_ends_its_dashboard_and_holds_nothing_of_its_open(monkeypatch):
    system = System(b"+")
    system.watch(monkeypatch, {5})
    ignored = {number for name, number, how in (done for done in system.done if done[0] == "signal")}
    assert ignored == {
        getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "QUIT", "TSTP", "TTIN", "TTOU", "PIPE")
    }
    assert {done[2] for done in system.done if done[0] == "signal"} == {signal.SIG_IGN}
    group, pipe, rest = (done for done in system.done if done[0] in ("setpgid", "dup2", "closerange"))
    assert group == ("setpgid", 0, 0), "a group of its own"
    assert pipe == ("dup2", 7, 1)
    assert rest[:2] == ("closerange", 3)
    assert rest[2] >= 2**20, "whatever number a descriptor has"


@pytest.mark.parametrize(
    ("words", "foreground", "local", "done"),
    [
        ([b"+"], 5, 0, [RESTORED, SET_BACK]),
        ([b"+", b"-", b"+"], 6, 0, [RESTORED, SET_BACK]),
        ([b"+", b"-"], 5, 0, []),
        ([b"+"], 9, 0, []),
        ([b"+"], OSError(), 0, [RESTORED, SET_BACK]),
        ([b"+"], 5, termios.ISIG, [RESTORED]),
        ([b"+"], 5, termios.ECHO, [RESTORED]),
        ([b"+"], 5, termios.ICANON, [RESTORED]),
        ([b"+"], 5, termios.IEXTEN, [RESTORED, SET_BACK]),
    ],
    ids=[
        "killed", "taken again", "given back", "another program has the terminal", "nobody knows who has it",
        "a shell edits its line", "echo is on", "lines are on", "none of the three",
    ],
)  # fmt: skip
def test_a_terminal_is_restored_if_it_was_taken_and_is_still_as_the_dashboard_left_it(
    monkeypatch, words, foreground, local, done
):
    system = System(*words, foreground=foreground, local=local)
    system.watch(monkeypatch, {5, 6})
    assert [step for step in system.done if step[0] in ("write", "tcsetattr")] == done


def test_in_the_foreground_may_be_the_dashboard_its_shell_or_its_parent(monkeypatch):
    monkeypatch.setattr(guard.os, "getpgrp", lambda: 1)
    monkeypatch.setattr(guard.os, "getsid", lambda pid: 20 + pid)
    monkeypatch.setattr(guard.os, "getppid", lambda: 30)
    monkeypatch.setattr(guard.os, "getpgid", lambda pid: pid + 1)
    assert guard._groups() == {1, 20, 31}

    def gone(_: int) -> int:
        raise ProcessLookupError

    monkeypatch.setattr(guard.os, "getpgid", gone)
    assert guard._groups() == {1, 20}


@pytest.fixture
def forked(monkeypatch):
    """A terminal to fork a guard for; returns what the parent does."""
    done: list[tuple[object, ...]] = []
    monkeypatch.setattr(guard.termios, "tcgetattr", lambda descriptor: done.append(("asked", descriptor)) or [])
    monkeypatch.setattr(guard.os, "isatty", lambda descriptor: descriptor == 2)
    monkeypatch.setattr(guard.os, "pipe", lambda: (70, 71))
    monkeypatch.setattr(guard.os, "fork", lambda: 99)
    for name in ("close", "write", "waitpid"):
        monkeypatch.setattr(guard.os, name, lambda *given, name=name: done.append((name, *given)))
    yield done
    monkeypatch.undo()


def test_a_guard_is_told_over_a_pipe_and_waited_for_at_the_end(forked):
    watcher = guard.Guard.start(title=True)
    assert watcher is not None
    watcher.taken()
    watcher.given_back()
    watcher.end()
    assert forked == [
        ("asked", 0), ("close", 70), ("write", 71, b"+"), ("write", 71, b"-"), ("close", 71), ("waitpid", 99, 0),
    ]  # fmt: skip


def test_a_guard_that_is_gone_is_not_missed(forked, monkeypatch):
    watcher = guard.Guard.start(title=False)
    assert watcher is not None

    def gone(*_: object) -> int:
        raise BrokenPipeError

    def nobody(*_: object) -> int:
        raise ChildProcessError

    monkeypatch.setattr(guard.os, "write", gone)
    monkeypatch.setattr(guard.os, "waitpid", nobody)
    watcher.taken()
    watcher.end()


@pytest.mark.parametrize(
    "lacks", [("isatty", lambda _: False), ("fork", None), ("tcgetattr", None)], ids=lambda lacks: lacks[0]
)
def test_without_a_terminal_or_a_process_to_spare_there_is_no_guard(forked, monkeypatch, lacks):
    name, instead = lacks

    def fails(*_: object) -> object:
        raise termios.error if name == "tcgetattr" else BlockingIOError

    monkeypatch.setattr(guard.termios if name == "tcgetattr" else guard.os, name, instead or fails)
    assert guard.Guard.start(title=True) is None


@pytest.mark.parametrize("title", [True, False])
def test_the_child_watches_with_the_title_to_pop_and_never_comes_back(forked, monkeypatch, title):
    class Left(BaseException):
        pass

    def leave(status: int) -> None:
        raise Left(status)

    watched: list[tuple[object, ...]] = []
    monkeypatch.setattr(guard.os, "fork", lambda: 0)
    monkeypatch.setattr(guard.os, "_exit", leave)
    monkeypatch.setattr(guard, "_groups", lambda: {3})
    monkeypatch.setattr(guard, "_watch", lambda *given: watched.append(given))
    with pytest.raises(Left) as left:
        guard.Guard.start(title=title)
    assert left.value.args == (0,)
    assert watched == [(70, [], {3}, guard.RESET + (guard.POP_TITLE if title else ""))]
    monkeypatch.setattr(guard, "_watch", lambda *_: 1 / 0)
    with pytest.raises(Left):
        guard.Guard.start(title=title)
