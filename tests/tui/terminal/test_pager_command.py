"""Which pager is run, with what environment, and what becomes of the dashboard and of Ctrl-C meanwhile: no terminal."""

import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from textual.app import SuspendNotSupported

from rankdeck.tui.terminal import pager
from rankdeck.tui.terminal.pager import PagerError, page, pager_command, pager_environ


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The programs that there are."""
    programs = {"less", "more", "bat"}
    monkeypatch.setattr(pager.shutil, "which", lambda name: f"/bin/{name}" if name in programs else None)
    return programs


def test_the_users_own_pager_comes_first_then_less_then_more(there: set[str]) -> None:
    assert pager_command({"PAGER": " bat -p 'two words' "}) == ["bat", "-p", "two words"]
    for unset in ({}, {"PAGER": ""}, {"PAGER": "  "}):
        assert pager_command(unset) == ["less"]
    there.remove("less")
    assert pager_command({}) == ["more"]
    there.remove("more")
    with pytest.raises(PagerError, match=r"^there is no pager here \(less or more\); set PAGER to one$"):
        pager_command({})


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("nosuch -R", "PAGER is 'nosuch -R', and there is no program 'nosuch'"),
        ("less 'open", 'PAGER is "less \'open": No closing quotation'),
    ],
)
def test_a_pager_that_cannot_be_run_is_named_and_no_other_taken(there: set[str], wanted: str, said: str) -> None:
    with pytest.raises(PagerError) as raised:
        pager_command({"PAGER": wanted})
    assert str(raised.value) == said


def test_less_does_not_quit_at_once_and_else_the_environment_is_the_users() -> None:
    for kept in ({}, {"LESS": "-R", "A": "b"}, {"LESS": ""}):
        assert pager_environ(kept) == kept
    mine = {"LESS": "-FRX", "A": "b"}
    assert pager_environ(mine) == {"LESS": "-FRX -+F", "A": "b"}
    assert mine["LESS"] == "-FRX"


class App:
    """Can be suspended, or cannot."""

    def __init__(self, *, can: bool = True) -> None:
        self.steps: list[Any] = []
        self._can = can

    @contextmanager
    def suspend(self) -> Iterator[None]:
        if not self._can:
            raise SuspendNotSupported("headless")
        self.steps.append("suspended")
        yield
        self.steps.append("back")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, there: set[str]) -> Iterator[App]:
    """The pager is stood in for; what it was given, and what an interrupt means meanwhile, is written down."""
    app = App()

    def ran(command: list[str], *, stdin: Any, env: Any, check: bool) -> None:
        handler = signal.getsignal(signal.SIGINT)
        assert callable(handler)
        assert handler(signal.SIGINT, None) is None, "Ctrl-C is the pager's"
        app.steps.append((command, stdin.read(), env, check))

    monkeypatch.setattr(pager.subprocess, "run", ran)
    monkeypatch.setattr(pager.sys, "__stdin__", SimpleNamespace(fileno=lambda: 42))
    monkeypatch.setattr(pager.termios, "tcgetattr", lambda of: app.steps.append(("kept", of)) or ["as it was"])
    monkeypatch.setattr(pager.termios, "tcsetattr", lambda *given: app.steps.append(given))
    before = signal.getsignal(signal.SIGINT)
    yield app
    assert signal.getsignal(signal.SIGINT) is before


RESTORED = (42, termios.TCSADRAIN, ["as it was"])


def test_the_pager_gets_the_whole_text_while_the_dashboard_is_suspended_and_the_terminal_is_put_right(run: App) -> None:
    environ = {"PAGER": "bat -p", "LESS": "-F"}
    page(run, "ä\udc80\nb", environ)  # type: ignore[arg-type]
    given = (["bat", "-p"], "ä?\nb".encode(), {**environ, "LESS": "-F -+F"}, False)
    assert run.steps == ["suspended", ("kept", 42), given, RESTORED, "back"]


def test_a_pager_that_cannot_be_started_is_told_after_the_dashboard_is_back(
    run: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(PagerError, match=r"^less could not be started: Permission denied$"):
        page(run, "text", {})  # type: ignore[arg-type]
    assert run.steps == ["suspended", ("kept", 42), RESTORED, "back"]


def test_standard_input_that_is_no_terminal_has_nothing_to_put_right(run: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_terminal(_: int) -> list[Any]:
        raise termios.error(25, "Inappropriate ioctl for device")

    monkeypatch.setattr(pager.termios, "tcgetattr", no_terminal)
    page(run, "text", {})  # type: ignore[arg-type]
    assert run.steps == ["suspended", (["less"], b"text", {}, False), "back"]


def test_without_a_terminal_to_lend_there_is_no_pager_but_a_hint(there: set[str]) -> None:
    with pytest.raises(PagerError, match=r"^there is no terminal here for a pager; y copies$"):
        page(App(can=False), "text", {})  # type: ignore[arg-type]
