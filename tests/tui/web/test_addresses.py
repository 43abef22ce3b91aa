"""What the server of browsers is told and tells: addresses, the view's command, and how a view is ended."""

import shlex
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rankdeck.runner import run_directory
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.app.replay import ReplayApp
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.sources.client import SocketSource
from rankdeck.tui.sources.journal import SAMPLE
from rankdeck.tui.web import server, view


class Listening:
    """A socket that listens somewhere."""

    def __init__(self, *name: object) -> None:
        self._name = name

    def getsockname(self) -> tuple[object, ...]:
        return self._name


@pytest.mark.parametrize(
    ("bound", "asked", "address", "loopback"),
    [
        ("127.0.0.1", "localhost", "http://localhost:8000", True),
        ("127.0.0.2", "127.0.0.2", "http://127.0.0.2:8000", True),
        ("::1", "::1", "http://[::1]:8000", True),
        ("10.0.0.7", "10.0.0.7", "http://10.0.0.7:8000", False),
        ("10.0.0.7", "my.name", "http://my.name:8000", False),
        ("fe80::1", "fe80::1", "http://[fe80::1]:8000", False),
        ("0.0.0.0", "0.0.0.0", "http://this.machine:8000", False),
        ("::", "::", "http://this.machine:8000", False),
    ],
)
def test_the_address_is_one_that_a_browser_can_open(monkeypatch, bound, asked, address, loopback):
    monkeypatch.setattr(server.socket, "gethostname", lambda: "this.machine")
    listening = Listening(bound, 8000) if ":" not in bound else Listening(bound, 8000, 0, 0)
    assert server.address(listening, asked) == address  # type: ignore[arg-type]
    assert server.is_loopback(listening) == loopback  # type: ignore[arg-type]
    admission = server.admission(listening, asked)  # type: ignore[arg-type]
    assert (admission.refused("evil.example:8000", None) is not None) == loopback
    host = f"[{asked}]:8000" if ":" in asked else f"{asked}:8000"
    assert admission.refused(host, None) is None


def test_it_listens_where_it_was_asked_to_and_on_any_free_port_for_0():
    with server.listen("127.0.0.1", 0) as listening:
        host, port = listening.getsockname()
        assert (host, port > 0, listening.family) == ("127.0.0.1", True, socket.AF_INET)
        with socket.create_connection((host, port), timeout=5):
            pass
        with pytest.raises(OSError, match="in use"):
            server.listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("control", "theme", "options"),
    [
        (False, None, []),
        (True, None, ["--control"]),
        (False, "nord", ["--theme", "nord"]),
        (True, "nord", ["--control", "--theme", "nord"]),
    ],
)
def test_a_view_is_started_with_what_the_server_was_asked_for(tmp_path, monkeypatch, control, theme, options):
    directory = tmp_path / "it's a run"
    command = shlex.split(server.view_command(directory, control=control, theme=theme))
    assert command == ["exec", sys.executable, "-P", "-m", "rankdeck.tui.web.view", str(directory), *options]
    shown: list[tuple[Path, bool, str | None]] = []

    def view_of(directory: Path, *, control: bool, theme: str | None) -> SimpleNamespace:
        return SimpleNamespace(run=lambda: shown.append((directory, control, theme)))

    watched: list[dict[str, object]] = []
    monkeypatch.setattr(view, "view_of", view_of)
    monkeypatch.setattr(
        view.threading, "Thread", lambda **options: (watched.append(options), SimpleNamespace(start=lambda: None))[1]
    )
    monkeypatch.setattr(sys, "argv", command[4:])
    monkeypatch.setattr(view.os, "getppid", lambda: 77)
    view.main()
    assert shown == [(directory, control, theme)]
    assert watched == [{"target": view._end_with, "args": [77], "daemon": True}]


def test_a_view_ends_once_its_server_is_no_longer_its_parent(monkeypatch):
    parents = [7, 7, 7, 1]
    slept: list[float] = []

    class Left(BaseException):
        pass

    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr(view.os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(view.time, "sleep", slept.append)
    monkeypatch.setattr(view.os, "_exit", leave)
    with pytest.raises(Left) as left:
        view._end_with(7)
    assert (left.value.args, slept) == ((0,), [view.LOOK_SECONDS] * 3)


@pytest.mark.parametrize("alive", [True, False])
def test_a_live_run_is_watched_and_one_that_is_over_replayed_in_the_theme_that_was_asked_for(
    tmp_path, monkeypatch, alive
):
    monkeypatch.setattr(run_directory, "supervisor_alive", lambda directory: alive)
    (tmp_path / "events.jsonl").write_bytes(SAMPLE.read_bytes())
    app = view.view_of(tmp_path, control=True, theme="nord")
    assert isinstance(app, RankdeckApp)
    assert isinstance(app, ReplayApp) != alive
    assert app.preferences.theme == "nord"
    assert app.followed.directory == tmp_path


@pytest.mark.parametrize("control", [True, False])
def test_a_browser_reaches_the_run_and_nothing_else_of_this_machine_or_its_user(tmp_path, monkeypatch, control):
    monkeypatch.setattr(run_directory, "supervisor_alive", lambda directory: True)
    app = view.view_of(tmp_path, control=control)
    assert app.followed.steers is control
    assert app._earlier is run_directory.read_outputs, "answers from before it came are listed"
    assert isinstance(app.followed.source, SocketSource)
    monkeypatch.setattr(run_directory, "supervisor_alive", lambda directory: False)
    (tmp_path / "events.jsonl").write_bytes(b"".join(SAMPLE.read_bytes().splitlines(keepends=True)[:9]))
    replay = view.view_of(tmp_path, control=control)
    assert isinstance(replay, ReplayApp)
    assert replay.stops == "supervisor was lost"
    assert not replay.followed.steers
    for each in (app, replay):
        assert not each.at_home, "no file is written, no pager or shell opened"
        assert each.preferences == Preferences(), "keys and bells are those of the machine's user"


# --- one view -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "within"), [(19, 20), (20, 20), (21, 21), (400, 400), (401, 400), (-5, 20), (True, 20)]
)
def test_a_size_is_brought_within_what_a_screen_can_have(value, within):
    assert server._within(value, server.COLUMNS) == within


@pytest.mark.parametrize("value", ["80", None, 80.5, [80]])
def test_a_size_that_is_no_number_is_nonsense(value):
    with pytest.raises(TypeError, match="a size of"):
        server._within(value, server.COLUMNS)


class Process:
    """A view's process: it ends by itself, or only if it is killed."""

    def __init__(self, *, obeys: bool, ended: bool = False) -> None:
        self.returncode: int | None = 0 if ended else None
        self.obeys, self.killed, self.waited = obeys, 0, 0

    async def wait(self) -> None:
        self.waited += 1
        if not self.obeys and not self.killed:
            await server.asyncio.Event().wait()
        self.returncode = 0

    def kill(self) -> None:
        self.killed += 1


@pytest.mark.parametrize(("obeys", "killed"), [(True, 0), (False, 1)])
@pytest.mark.parametrize("hangs", [True, False])
async def test_a_view_that_does_not_end_when_asked_is_killed(monkeypatch, obeys, killed, hangs):
    asked: list[str] = []

    async def stop(self: object) -> None:
        asked.append("stop")
        if hangs:
            await server.asyncio.Event().wait()

    monkeypatch.setattr(server, "ENDING_SECONDS", 0.01)
    monkeypatch.setattr(server.AppService, "stop", stop)
    viewer = server.Viewer.__new__(server.Viewer)
    viewer._process = process = Process(obeys=obeys)
    await viewer.stop()
    assert (asked, process.killed, process.returncode) == (["stop"], killed, 0)
    viewer._process = over = Process(obeys=False, ended=True)
    await viewer.stop()
    assert (over.killed, over.waited) == (0, 0)
    viewer._process = None
    await viewer.stop()
