"""A dashboard in this process's terminal, both stood in for: what a signal does at which moment, and what is left."""

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from textual.drivers.headless_driver import HeadlessDriver
from textual.drivers.linux_driver import LinuxDriver

from rankdeck.tui.session import terminal_session
from rankdeck.tui.session.terminal_session import LEAVE_SECONDS, run_app
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.terminal.driver import TerminalDriver

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Left(BaseException):
    """The process would have ended here."""


class Dashboard:
    """A dashboard that does what the test says and then ends."""

    def __init__(self, act: Callable[[], object] = lambda: None, *, leaves: bool = True, title: bool = True) -> None:
        self.preferences = Preferences(title=title)
        self.driver_class: type[Any] = LinuxDriver
        self.asked_to_leave = 0
        self._act, self._leaves = act, leaves

    def run(self) -> None:
        self._act()

    def leave_soon(self) -> bool:
        self.asked_to_leave += 1
        return self._leaves


class Around:
    """What is done around the dashboard."""

    def __init__(self) -> None:
        self.guarded: list[bool] = []
        self.ended = self.watched = self.frozen = self.silenced = 0
        self.deadlines: list[tuple[float, tuple[int, ...]]] = []


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Around:
    found = Around()

    def begin(*, title: bool) -> SimpleNamespace:
        found.guarded.append(title)
        return SimpleNamespace(end=lambda: setattr(found, "ended", found.ended + 1))

    class Timer:
        daemon = False

        def __init__(self, seconds: float, call: object, given: tuple[int, ...]) -> None:
            assert call is os._exit
            self.deadline = seconds, given

        def start(self) -> None:
            assert self.daemon, "else the process would wait for it"
            found.deadlines.append(self.deadline)

    monkeypatch.setattr(terminal_session.Guard, "start", begin)
    monkeypatch.setattr(terminal_session.threading, "Timer", Timer)
    monkeypatch.setattr(terminal_session, "signal_hangup", lambda: setattr(found, "watched", found.watched + 1))
    monkeypatch.setattr(terminal_session, "_freeze_imports", lambda: setattr(found, "frozen", found.frozen + 1))
    monkeypatch.setattr(terminal_session, "_silence_stdout", lambda: setattr(found, "silenced", found.silenced + 1))
    monkeypatch.setattr(TerminalDriver, "guard", None)
    monkeypatch.setattr(TerminalDriver, "titled", False)
    monkeypatch.setenv("TERM", "xterm")
    return found


def run(app: Dashboard) -> bool:
    return run_app(app)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_leaves_the_dashboard_which_has_three_seconds_for_it(around: Around, number: signal.Signals) -> None:
    app = Dashboard(lambda: os.kill(os.getpid(), number))
    assert run(app), "there is little time left: nothing more is shown"
    assert app.asked_to_leave == 1
    assert around.deadlines == [(LEAVE_SECONDS, (128 + number,))]
    assert around.silenced == (number == signal.SIGHUP), "printing to a terminal that is gone would look like a crash"
    assert around.ended == 1


def test_a_dashboard_that_is_left_by_its_key_was_not_told_to_leave(around: Around) -> None:
    app = Dashboard()
    assert not run(app)
    assert (app.asked_to_leave, around.deadlines, around.silenced) == (0, [], 0)
    assert (around.watched, around.frozen, around.ended) == (1, 1, 1)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_one_that_has_not_begun_yet_is_ended_at_once(
    around: Around, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr(terminal_session.os, "_exit", leave)
    monkeypatch.setattr(terminal_session.threading, "Timer", lambda *_: SimpleNamespace(start=lambda: None))
    with pytest.raises(Left) as left:
        run(Dashboard(lambda: os.kill(os.getpid(), number), leaves=False))
    assert left.value.args == (128 + number,)


@pytest.mark.parametrize("breaks", [False, True])
def test_afterwards_signals_mean_what_they_meant_before_and_the_guard_has_ended(around: Around, breaks: bool) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def act() -> None:
        assert all(callable(signal.getsignal(number)) for number in SIGNALS)
        if breaks:
            raise ValueError("broken")

    try:
        run(Dashboard(act))
    except ValueError:
        assert breaks
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert around.ended == 1


@pytest.mark.parametrize(
    ("term", "wanted", "titled"),
    [
        ("xterm", True, True),
        ("xterm", False, False),
        ("linux", True, False),
        ("dumb", True, False),
        (None, True, False),
    ],
)
def test_the_guard_and_the_driver_know_whether_this_terminal_gets_a_title(
    around: Around, monkeypatch: pytest.MonkeyPatch, term: str | None, wanted: bool, titled: bool
) -> None:
    if term is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", term)
    app = Dashboard(title=wanted)
    run(app)
    assert around.guarded == [titled]
    assert TerminalDriver.titled is titled
    assert TerminalDriver.guard is not None
    assert app.driver_class is TerminalDriver


def test_another_driver_is_left_to_the_app_and_without_a_guard_it_runs_all_the_same(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal_session.Guard, "start", lambda *, title: None)
    app = Dashboard()
    app.driver_class = HeadlessDriver
    assert not run(app)
    assert app.driver_class is HeadlessDriver
    assert TerminalDriver.guard is None


def test_imports_are_frozen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = [0]
    monkeypatch.setattr(terminal_session.gc, "get_freeze_count", lambda: frozen[0])
    monkeypatch.setattr(terminal_session.gc, "freeze", lambda: frozen.__setitem__(0, frozen[0] + 1))
    terminal_session._freeze_imports()
    terminal_session._freeze_imports()
    assert frozen == [1]


def test_after_a_hangup_standard_output_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[object, ...]] = []
    monkeypatch.setattr(terminal_session.os, "open", lambda *given: done.append(("open", *given)) or 55)
    for name in ("dup2", "close"):
        monkeypatch.setattr(terminal_session.os, name, lambda *given, name=name: done.append((name, *given)))
    terminal_session._silence_stdout()
    monkeypatch.undo()
    assert done == [("open", os.devnull, os.O_WRONLY), ("dup2", 55, 1), ("close", 55)]
