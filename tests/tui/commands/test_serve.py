"""`rankdeck serve`: what it gives the server, what it prints, and what it refuses; the server itself is a stand-in."""

import errno
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rankdeck.tui.commands import serve as command
from rankdeck.tui.settings.preferences import PreferenceError, Preferences
from tests.reports import write_run
from tests.tui.commands.test_cli import rankdeck


class Server(ModuleType):
    """Stands for rankdeck.tui.web.server; keeps what it was given."""

    def __init__(self) -> None:
        super().__init__("server")
        self.asked: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.local = True

    def listen(self, host: str, port: int) -> str:
        if self.error is not None:
            raise self.error
        self.asked.update(listen=(host, port), interrupt=signal.getsignal(signal.SIGINT))
        return "socket"

    def admission(self, listening: str, host: str) -> Any:
        self.asked["admission"] = (listening, host)
        return SimpleNamespace(address_end="/?token=t")

    def is_loopback(self, listening: str) -> bool:
        assert listening == "socket"
        return self.local

    def address(self, listening: str, host: str) -> str:
        assert listening == "socket"
        return f"http://{host}:1"

    def RunServer(self, directory: Path, **how: Any) -> Any:
        self.asked.update(directory=directory, how=how)
        return self

    def serve_on(self, listening: str, ready: Callable[[], None]) -> None:
        assert listening == "socket"
        ready()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    import rankdeck.tui.web as package

    monkeypatch.setattr(package, "server", made, raising=False)
    monkeypatch.setitem(sys.modules, "rankdeck.tui.web.server", made)
    before = signal.getsignal(signal.SIGINT)
    yield made
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "mine"
    write_run(directory)
    return directory


def test_a_run_is_served_read_only_on_the_loopback_unless_told_otherwise(server: Server, run: Path) -> None:
    result = rankdeck("serve", str(run))
    assert result.exit_code == 0
    assert result.stdout == "http://127.0.0.1:1/?token=t\n"
    assert result.stderr == "rankdeck: serving mine, read-only; Ctrl-C ends it\n"
    assert server.asked["listen"] == ("127.0.0.1", 8000)
    assert server.asked["admission"] == ("socket", "127.0.0.1")
    assert server.asked["directory"] == run
    how = server.asked["how"]
    assert (how["title"], how["control"], how["theme"]) == ("rankdeck mine", False, None)
    assert how["admission"].address_end == "/?token=t"
    assert server.asked["interrupt"] == signal.SIG_DFL, "until it serves, Ctrl-C just ends it"


def test_the_name_of_a_run_is_harmless_in_the_title_and_on_stderr(server: Server, tmp_path: Path) -> None:
    directory = tmp_path / "a\x1b[2Jb"
    write_run(directory)
    result = rankdeck("serve", str(directory))
    assert "\x1b" not in server.asked["how"]["title"] + result.stderr
    assert server.asked["directory"] == directory


def test_each_flag_has_its_place(server: Server, run: Path) -> None:
    words = ("--control", "--host", "127.0.0.2", "--port", "0", "--theme", "nord")
    result = rankdeck("serve", str(run), *words)
    assert result.stdout == "http://127.0.0.2:1/?token=t\n"
    assert result.stderr == "rankdeck: serving mine, viewers may steer it; Ctrl-C ends it\n"
    assert server.asked["listen"] == ("127.0.0.2", 0)
    assert (server.asked["how"]["control"], server.asked["how"]["theme"]) == (True, "nord")


@pytest.mark.parametrize(
    ("words", "can"),
    [
        ((), "read all prompts and answers"),
        (("--control",), "read all prompts and answers, steer the run and stop it"),
    ],
)
def test_whoever_listens_for_others_is_warned_of_what_they_can_do(
    server: Server, run: Path, words: tuple[str, ...], can: str
) -> None:
    server.local = False
    first, second = rankdeck("serve", str(run), *words).stderr.splitlines()
    assert first == f"rankdeck: warning: whoever has this address, or listens on the network, can {can}"
    assert second.startswith("rankdeck: serving mine, ")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (socket.gaierror(-2, "Name or service not known"), "--host: h: Name or service not known"),
        (UnicodeError("label too long"), "--host: 'h' is not a valid host name"),
        (OSError(errno.EADDRINUSE, "in use"), "--port: 5 is taken on h; choose another, or 0 for any free one"),
        (OSError(errno.EACCES, "Permission denied"), "cannot listen on h, port 5: Permission denied"),
    ],
)
def test_what_cannot_be_listened_on_is_refused_by_its_flag(
    server: Server, run: Path, error: Exception, said: str
) -> None:
    server.error = error
    result = rankdeck("serve", str(run), "--host", "h", "--port", "5")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"rankdeck: {said}\n")


def test_everything_that_is_wrong_is_told_before_it_listens(server: Server, run: Path) -> None:
    result = rankdeck("serve", str(run.parent / "nobody"), "--port", "65536", "--theme", "nrd")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [line.split(":")[1] for line in lines[:2]] == [" --theme", " --port"]
    assert "must be at most 65535, not 65536" in lines[1]
    assert "nobody" in lines[2]
    assert rankdeck("serve", str(run), "--port", "-1").exit_code == 2
    assert server.asked == {}
    assert rankdeck("serve", str(run), "--port", "65535").exit_code == 0


def test_preferences_that_are_wrong_are_refused_and_theirs_is_the_theme(
    server: Server, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "load_preferences", lambda *, theme: Preferences(theme="ansi-dark"))
    rankdeck("serve", str(run))
    assert server.asked.pop("how")["theme"] == "ansi-dark"

    def wrong(*, theme: str | None) -> None:
        raise PreferenceError("one\ntwo")

    monkeypatch.setattr(command, "load_preferences", wrong)
    result = rankdeck("serve", str(run))
    assert (result.exit_code, result.stderr) == (2, "rankdeck: one\nrankdeck: two\n")
    assert "how" not in server.asked


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("aiohttp", True),
        ("aiohttp.web", True),
        ("aiohttp_jinja2", True),
        ("textual_serve.server", True),
        ("json", False),
    ],
)
def test_only_what_the_extra_brings_is_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch, missing: str, told: bool
) -> None:
    import rankdeck.tui.web as package

    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "rankdeck.tui.web.server":
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.delattr(package, "server", raising=False)
    monkeypatch.delitem(sys.modules, "rankdeck.tui.web.server", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    before = signal.getsignal(signal.SIGINT)
    result = rankdeck("serve", str(run))
    signal.signal(signal.SIGINT, before)
    if told:
        said = "rankdeck: it needs the extra `web`: pip install 'rankdeck[web]'\n"
        assert (result.exit_code, result.stderr) == (2, said)
    else:
        assert isinstance(result.exception, ModuleNotFoundError)
