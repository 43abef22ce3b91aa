"""The terminal's driver without a terminal: what it counts, which codes it sends in which order, what a hangup does."""

import errno
import fcntl
import inspect
import os
import re
import signal
import struct
import termios
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from textual import events
from textual.drivers.linux_driver import LinuxDriver
from textual.geometry import Size

from rankdeck.tui.terminal import driver as drivers
from rankdeck.tui.terminal.driver import PUSH_TITLE, TerminalDriver, _TerminalFile
from rankdeck.tui.terminal.guard import POP_TITLE, RESET


class Steps:
    """Everything that is done to the terminal, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def taken(self) -> None:
        self.done.append("guard: taken")

    def given_back(self) -> None:
        self.done.append("guard: given back")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Textual's driver is stood in for: it writes down what it is asked to do."""
    steps = Steps()
    for name in ("start_application_mode", "stop_application_mode", "close", "suspend_application_mode"):
        monkeypatch.setattr(LinuxDriver, name, lambda self, name=name: steps.done.append(name))
    monkeypatch.setattr(LinuxDriver, "write", lambda self, data: steps.done.append(data))
    monkeypatch.setattr(TerminalDriver, "guard", steps)
    monkeypatch.setattr(TerminalDriver, "titled", True)
    return steps


class WithTheTerminal:
    """A file that takes what it is given, or nothing."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.flushed = 0
        self.broken = False

    def write(self, text: str) -> None:
        if self.broken:
            raise OSError(errno.EIO, "gone")
        self.got.append(text)

    def flush(self) -> None:
        if self.broken:
            raise OSError(errno.EIO, "gone")
        self.flushed += 1

    def fileno(self) -> int:
        return 42


@pytest.fixture
def blocking(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    calls: list[tuple[int, bool]] = []
    monkeypatch.setattr(drivers.os, "set_blocking", lambda descriptor, blocks: calls.append((descriptor, blocks)))
    return calls


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(drivers.os, "kill", lambda pid, number: signals.append((pid, number)))
    return signals


def a_driver(file: Any = None) -> TerminalDriver:
    driver = TerminalDriver.__new__(TerminalDriver)
    driver._terminal_file = _TerminalFile(file or WithTheTerminal())  # type: ignore[arg-type]
    driver._title, driver.written = None, 0
    driver._taken = driver._taken_before = driver._must_signal_resume = False
    return driver


# --- size -----------------------------------------------------------------------------------------


def test_the_size_is_the_terminals_own_even_where_the_environment_remembers_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "40")
    master, slave = os.openpty()
    try:
        driver = a_driver()
        driver.fileno = slave
        for columns, rows in ((70, 20), (90, 24)):
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            assert driver._get_terminal_size() == (columns, rows)
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        assert driver._get_terminal_size() == (120, 40), "a terminal that does not know, as over a serial line"
        driver.fileno = -1
        assert driver._get_terminal_size() == (120, 40)
    finally:
        os.close(master)
        os.close(slave)


# --- bytes ----------------------------------------------------------------------------------------


def test_the_backlog_is_the_bytes_that_were_written_and_not_taken_yet(
    steps: Steps, blocking: list[tuple[int, bool]]
) -> None:
    file = WithTheTerminal()
    driver = a_driver(file)
    driver.write("aä█")
    driver.write("b")
    assert (driver.written, driver.backlog) == (7, 7), "bytes, not characters"
    driver._terminal_file.write("aä█")
    assert (driver.written, driver.backlog) == (7, 1)
    driver._terminal_file.write("b")
    assert driver.backlog == 0
    assert steps.done == file.got == ["aä█", "b"]
    assert file.flushed == 2, "counted as taken only once it was"
    assert blocking == [(42, True)] * 2, "before every write: any program on the terminal may have changed that"
    assert driver._terminal_file.fileno() == 42


@pytest.mark.parametrize("fails", [lambda file: file.write("xx"), lambda file: file.flush()], ids=["write", "flush"])
def test_a_terminal_that_is_gone_is_one_hangup_and_takes_everything_from_then_on(
    blocking: list[tuple[int, bool]], killed: list[tuple[int, int]], fails: Callable[[_TerminalFile], None]
) -> None:
    terminal = WithTheTerminal()
    terminal.broken = True
    file = _TerminalFile(terminal)  # type: ignore[arg-type]
    fails(file)
    assert killed == [(os.getpid(), signal.SIGHUP)]
    before, terminal.broken = file.taken, False
    file.write("äb")
    file.flush()
    assert (terminal.got, terminal.flushed) == ([], 0)
    assert file.taken == before + 3, "dropped, but nobody waits for it"
    assert len(killed) == 1


# --- taking the terminal and giving it back -------------------------------------------------------


def test_the_guard_is_told_before_the_terminal_is_taken_and_after_it_was_given_back(steps: Steps) -> None:
    before = signal.getsignal(signal.SIGWINCH)
    driver = a_driver()
    driver.start_application_mode()
    assert steps.done == ["guard: taken", "start_application_mode", PUSH_TITLE]
    assert not driver._must_signal_resume, "it begins, and comes back from nowhere"
    steps.done.clear()
    driver.set_title("rankdeck\x1b")
    driver.set_title("rankdeck\x1b")
    assert steps.done == ["\x1b]2;rankdeck␛\x07"], "the same title is set once"
    steps.done.clear()
    driver.stop_application_mode()
    driver.close()
    assert steps.done == [POP_TITLE, "stop_application_mode", "close", "guard: given back"]
    steps.done.clear()
    driver.start_application_mode()
    driver.set_title("rankdeck\x1b")
    assert steps.done == ["guard: taken", "start_application_mode", PUSH_TITLE, "\x1b]2;rankdeck␛\x07"], "set anew"
    assert driver._must_signal_resume, "it comes back from a suspension"
    assert signal.getsignal(signal.SIGWINCH) == before


def test_one_that_was_stopped_and_continued_from_outside_takes_the_terminal_afresh(steps: Steps) -> None:
    driver = a_driver()
    driver.start_application_mode()
    steps.done.clear()
    driver.start_application_mode()
    assert steps.done == ["suspend_application_mode", "guard: taken", "start_application_mode", PUSH_TITLE]
    assert driver._must_signal_resume


def test_a_terminal_without_a_title_gets_none_and_one_without_a_guard_is_taken_all_the_same(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TerminalDriver, "titled", False)
    monkeypatch.setattr(TerminalDriver, "guard", None)
    driver = a_driver()
    driver.start_application_mode()
    driver.set_title("rankdeck")
    driver.stop_application_mode()
    driver.close()
    assert steps.done == ["start_application_mode", "stop_application_mode", "close"]


def test_every_mode_that_the_dashboard_sets_is_reset_by_the_guard() -> None:
    source = re.sub(r"(?m)^ *#.*$", "", inspect.getsource(LinuxDriver))
    turned_on = set(re.findall(r"\\x1b\[\?(\d+)h", source)) - {"7", "25"}
    turned_off = set(re.findall(r"\\x1b\[\?(\d+)l", source)) & {"7", "25"}
    assert {"1049", "1000", "1003", "1006", "1015", "1004", "2004", "2048"} <= turned_on
    assert turned_off == {"7", "25"}
    for mode in (*turned_on, "2026"):  # held-back output is asked about by number, and set elsewhere
        assert f"\x1b[?{mode}l" in RESET
    for mode in turned_off:
        assert f"\x1b[?{mode}h" in RESET
    assert RESET.startswith("\x1b\\"), "whatever was being written is ended first"
    assert "\x1b[<u" in RESET
    assert RESET.index("\x1b[0m") < RESET.index("\x1b[?1049l"), "no colour is taken to the other screen"
    assert PUSH_TITLE.replace("22", "23") == POP_TITLE


# --- resizes --------------------------------------------------------------------------------------


def test_resizes_by_signal_and_from_the_input_wait_their_turn_and_nothing_else_does(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[Callable[[], object]] = []
    driver = a_driver()
    driver._resizes = SimpleNamespace(soon=waiting.append)  # type: ignore[assignment]
    resized: list[object] = []
    before = signal.signal(signal.SIGWINCH, lambda number, _: resized.append(number))
    try:
        driver.start_application_mode()
        os.kill(os.getpid(), signal.SIGWINCH)
    finally:
        signal.signal(signal.SIGWINCH, before)
    assert resized == []
    (later,) = waiting
    later()
    assert resized == [signal.SIGWINCH]
    waiting.clear()
    processed: list[object] = []
    monkeypatch.setattr(LinuxDriver, "process_message", lambda self, message: processed.append(message))
    size, key = events.Resize(Size(80, 24), Size(80, 24)), events.Key("a", "a")
    driver.process_message(size)
    driver.process_message(key)
    assert processed == [key]
    (later,) = waiting
    later()
    assert processed == [key, size]


# --- a terminal that goes away --------------------------------------------------------------------


def test_a_hangup_of_the_terminal_is_signalled_and_without_a_terminal_nobody_waits(
    monkeypatch: pytest.MonkeyPatch, killed: list[tuple[int, int]]
) -> None:
    begun: list[dict[str, Any]] = []
    polled: list[object] = []
    poll = SimpleNamespace(register=lambda *of: polled.append(of), poll=lambda: polled.append("waits"))
    monkeypatch.setattr(drivers.select, "poll", lambda: poll)
    monkeypatch.setattr(
        drivers.threading, "Thread", lambda **how: (begun.append(how), SimpleNamespace(start=how["target"]))[1]
    )
    asked: list[int] = []
    monkeypatch.setattr(drivers.os, "isatty", lambda descriptor: asked.append(descriptor) or bool(len(asked) - 1))
    drivers.signal_hangup()
    assert (begun, asked) == ([], [0])
    drivers.signal_hangup()
    assert begun[0]["daemon"], "else the process would wait for it"
    assert polled == [(0, 0), "waits"], "of standard input the hangup only, not what is typed"
    assert killed == [(os.getpid(), signal.SIGHUP)]

    def closed() -> None:
        raise OSError(errno.EBADF, "closed")

    poll.poll = closed
    drivers.signal_hangup()
    assert len(killed) == 1
