"""The web server in this process, its views stood in for: how many browsers, what they may ask for, how it ends."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from rankdeck.tui.web import server
from rankdeck.tui.web.server import MOST_VIEWERS, RunServer
from tests.reports import write_recorded

SIGNALS = [signal.SIGINT, signal.SIGTERM]


class StandInViewer:
    """A view without a process; it ends when it is told to, or at once."""

    begun: int
    sizes: list[tuple[int, int]]
    may_end: asyncio.Event

    def __init__(self, command: str, **_: Any) -> None:
        type(self).begun += 1

    async def start(self, width: int, height: int) -> None:
        self.sizes.append((width, height))

    async def set_terminal_size(self, width: int, height: int) -> None:
        self.sizes.append((width, height))

    async def send_bytes(self, data: bytes) -> None: ...

    async def stop(self) -> None:
        await self.may_end.wait()


@pytest.fixture
def viewers(monkeypatch: pytest.MonkeyPatch) -> type[StandInViewer]:
    StandInViewer.begun, StandInViewer.sizes, StandInViewer.may_end = 0, [], asyncio.Event()
    StandInViewer.may_end.set()
    monkeypatch.setattr(server, "Viewer", StandInViewer)
    return StandInViewer


def served(admission: server.Admission | None = None) -> RunServer:
    admission = admission or server.Admission()
    return RunServer(Path("a run"), title="a run", control=False, theme=None, admission=admission)


@pytest.fixture
async def client(viewers: type[StandInViewer]) -> AsyncIterator[TestClient[Any, Any]]:
    """A browser that has opened the address."""
    admission = server.Admission()
    app = await served(admission)._make_app()
    jar = aiohttp.CookieJar(unsafe=True)
    async with TestClient(TestServer(app), cookie_jar=jar) as client:
        response = await client.get(admission.address_end)
        assert response.status == 200
        yield client


async def until_let_in(client: TestClient[Any, Any]) -> aiohttp.ClientWebSocketResponse:
    """A place among the viewers, once there is one: the server learns a little later that another has gone."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await client.ws_connect("/ws")
            except aiohttp.WSServerHandshakeError:
                await asyncio.sleep(0)


async def test_the_browser_beyond_the_limit_is_refused_until_another_has_gone(client, viewers):
    assert 8 <= MOST_VIEWERS <= 64, "each is a process of about 60 MB"
    sockets = [await client.ws_connect("/ws") for _ in range(MOST_VIEWERS)]
    response = await client.get("/ws")
    assert response.status == 503
    assert f"{MOST_VIEWERS} browsers are watching already" in await response.text()
    assert viewers.begun == MOST_VIEWERS
    await sockets[0].close()
    await (await until_let_in(client)).close()


async def test_a_view_that_has_not_ended_yet_counts_though_its_browser_has_gone(client, viewers):
    viewers.may_end.clear()
    for _ in range(MOST_VIEWERS):
        await (await client.ws_connect("/ws")).close()
    assert (await client.get("/ws")).status == 503
    viewers.may_end.set()
    await (await until_let_in(client)).close()


async def test_a_browser_gets_a_view_of_a_size_that_a_screen_can_have(client, viewers):
    for asked in ("width=0&height=-1", "width=100000&height=100000", "width=x&height=", "width=120&height=40"):
        await (await client.ws_connect(f"/ws?{asked}")).close()
    assert viewers.sizes == [(20, 6), (400, 150), (80, 24), (120, 40)]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/server.py",
        "/static/..%2f..%2f..%2fetc/passwd",
        "/static//etc/passwd",
        "/etc",
    ],
)
async def test_no_path_leads_out_of_the_page(client, path):
    from yarl import URL

    response = await client.get(URL(path, encoded=True))
    assert response.status in (403, 404)


def test_the_headers_let_the_page_load_from_its_own_server_only_and_be_framed_and_kept_by_nobody():
    assert server.HEADERS["Cache-Control"] == "no-store"
    assert server.HEADERS["X-Content-Type-Options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in server.HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    allowed = {source for name, sources in policy.items() if name != "frame-ancestors" for source in sources.split()}
    assert allowed == {"'self'", "'unsafe-inline'", "data:", "blob:", "ws:", "wss:"}
    assert policy["script-src"] == "'self' 'unsafe-inline'", "no script from data or elsewhere"
    assert set(policy["connect-src"].split()) == {"'self'", "ws:", "wss:"}


async def test_every_answer_has_the_headers_that_keep_the_page_to_itself(client):
    for path in ("/", "/static/js/textual.js"):
        response = await client.get(path)
        assert response.status == 200
        assert {name: response.headers[name] for name in server.HEADERS} == server.HEADERS


async def test_the_token_is_exchanged_for_a_cookie_that_no_script_and_no_other_site_gets(viewers):
    admission = server.Admission()
    app = await served(admission)._make_app()
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/")).status == 403
        response = await client.get(f"{admission.address_end}&fontsize=12", allow_redirects=False)
        assert response.status == 200, "no redirect: a browser would count that as coming from elsewhere"
        assert response.headers["Refresh"] == "0; url=/?fontsize=12", "the token is gone from the address, nothing else"
        (cookie,) = response.cookies.values()
        assert (cookie.key, cookie.value) == admission.cookie(f"127.0.0.1:{client.port}")
        assert (cookie["httponly"], cookie["samesite"]) == (True, "Strict")
        assert {name: response.headers[name] for name in server.HEADERS} == server.HEADERS
        other = await client.get(f"/static/js/textual.js{admission.address_end[1:]}")
        assert "Refresh" not in other.headers, "only the page is opened by its address"
        evil = await client.get(admission.address_end, headers={"Origin": "http://evil.example"})
        assert (evil.status, await evil.text()) == (403, "asked by a page of another site")


async def test_a_title_is_text_in_the_page(viewers):
    admission = server.Admission()
    evil = RunServer(Path("a run"), title="<script>evil()</script>", control=False, theme=None, admission=admission)
    jar = aiohttp.CookieJar(unsafe=True)
    async with TestClient(TestServer(await evil._make_app()), cookie_jar=jar) as client:
        await client.get(admission.address_end)
        page = await (await client.get("/")).text()
    assert "<title>&lt;script&gt;evil()" in page
    assert "<script>evil" not in page


NONSENSE = [
    "nonsense", "{}", "[]", '["stdin"]', '["stdin", 5]', '["resize", {}]', '["resize", {"width": "wide", "height": 2}]',
]  # fmt: skip


@pytest.mark.parametrize("word", NONSENSE)
async def test_a_browser_that_sends_nonsense_is_disconnected_and_its_view_ended(
    client, viewers, monkeypatch, caplog, word
):
    ended: list[StandInViewer] = []

    async def stop(self: StandInViewer) -> None:
        ended.append(self)

    async def within(self: StandInViewer, width: int, height: int) -> None:
        server._within(width, server.COLUMNS)

    monkeypatch.setattr(viewers, "stop", stop)
    monkeypatch.setattr(viewers, "set_terminal_size", within)
    websocket = await client.ws_connect("/ws")
    await websocket.send_str(word)
    async with asyncio.timeout(10):
        message = await websocket.receive()
    assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)
    assert len(ended) == 1
    assert (await client.get("/")).status == 200, "the others go on"
    assert [record.message.partition(": ")[0] for record in caplog.records] == ["a browser was left"], "no traceback"


async def test_a_view_that_cannot_be_started_leaves_its_place_to_the_next(client, viewers, monkeypatch):
    async def start(self: StandInViewer, width: int, height: int) -> None:
        raise ConnectionError("its process died")

    with monkeypatch.context() as patched:
        patched.setattr(viewers, "start", start)
        for _ in range(MOST_VIEWERS):
            websocket = await client.ws_connect("/ws")
            await websocket.receive()
    await (await until_let_in(client)).close()


def test_views_are_started_with_what_the_server_was_asked_for():
    for control, theme in ((False, None), (True, "nord")):
        run_server = RunServer(
            Path("a run"), title="its title", control=control, theme=theme, admission=server.Admission()
        )
        assert run_server.command == server.view_command(Path("a run"), control=control, theme=theme)
        assert run_server.title == "its title"
        assert (run_server.templates_path / "app_index.html").is_file()


async def test_a_size_that_a_browser_changes_to_is_one_that_a_screen_can_have(monkeypatch):
    sizes: list[tuple[int, int]] = []

    async def resize(self: object, width: int, height: int) -> None:
        sizes.append((width, height))

    monkeypatch.setattr(server.AppService, "set_terminal_size", resize)
    viewer = server.Viewer.__new__(server.Viewer)
    for width, height in ((1, 1), (90, 30), (9999, 9999)):
        await viewer.set_terminal_size(width, height)
    assert sizes == [(20, 6), (90, 30), (400, 150)]


# --- the end --------------------------------------------------------------------------------------


async def test_browsers_are_told_that_the_server_goes_and_are_waited_for_no_longer_than_views_may_take(
    viewers, monkeypatch
):
    made: list[dict[str, Any]] = []
    websocket_of = server.web.WebSocketResponse
    monkeypatch.setattr(
        server.web, "WebSocketResponse", lambda **how: (made.append(how), websocket_of(**how))[1], raising=True
    )
    admission = server.Admission()
    run_server = served(admission)
    app = await run_server._make_app()
    async with TestClient(TestServer(app), cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        await client.get(admission.address_end)
        websocket = await client.ws_connect("/ws")
        assert made == [{"heartbeat": 15, "timeout": server.ENDING_SECONDS}], "one that is gone is noticed"
        leaving = asyncio.ensure_future(run_server.on_shutdown(app))
        message = await websocket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)
        await leaving


def test_there_is_time_for_every_view_to_end_before_the_deadline(monkeypatch):
    begun: list[dict[str, Any]] = []
    runner_of = server.web.AppRunner

    def runner(app: Any, **how: Any) -> Any:
        begun.append(how)
        return runner_of(app, **how)

    monkeypatch.setattr(server.web, "AppRunner", runner)
    last: list[tuple[Any, ...]] = []

    class Timer:
        daemon = False

        def __init__(self, *given: Any) -> None:
            last.append(given)

        def start(self) -> None: ...

    monkeypatch.setattr(server.threading, "Timer", Timer)
    with server.listen("127.0.0.1", 0) as listening:
        served().serve_on(listening, lambda: os.kill(os.getpid(), signal.SIGINT))
    (how,) = begun
    assert (how["handle_signals"], how["access_log"]) == (False, None), "requests have the token in their address"
    assert how["shutdown_timeout"] > 2 * server.ENDING_SECONDS, "a view is asked, and then killed"
    assert last == [(server.LAST_SECONDS, os._exit, (1,))]
    assert last[0][0] > how["shutdown_timeout"] + 2 * server.ENDING_SECONDS


@pytest.fixture
def deadline(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The deadlines that were set for the process; none of them ends the tests."""
    begun: list[float] = []

    class Timer:
        daemon = False

        def __init__(self, seconds: float, *_: Any) -> None:
            self.seconds = seconds

        def start(self) -> None:
            assert self.daemon, "else the process would wait for it"
            begun.append(self.seconds)

    monkeypatch.setattr(server.threading, "Timer", Timer)
    return begun


def at_ready(run_server: RunServer, act: Callable[[], None]) -> Callable[[], None]:
    return act


def on_startup(run_server: RunServer, act: Callable[[], None]) -> Callable[[], None]:
    async def started(app: Any) -> None:
        act()

    run_server.on_startup = started  # type: ignore[method-assign]
    return lambda: None


def as_it_is_made(run_server: RunServer, act: Callable[[], None]) -> Callable[[], None]:
    make = run_server._make_app

    async def making() -> Any:
        act()
        return await make()

    run_server._make_app = making  # type: ignore[method-assign]
    return lambda: None


def from_another_thread(run_server: RunServer, act: Callable[[], None]) -> Callable[[], None]:
    return threading.Thread(target=act).start


@pytest.mark.parametrize("moment", [as_it_is_made, on_startup, at_ready, from_another_thread])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_at_any_moment_of_the_start_ends_the_server(deadline, moment, number):
    run_server = served()
    ready = moment(run_server, lambda: os.kill(os.getpid(), number))
    with server.listen("127.0.0.1", 0) as listening:
        run_server.serve_on(listening, ready)
    assert deadline == [server.LAST_SECONDS], "had it hung, this would have ended it"


def test_two_signals_set_one_deadline(deadline):
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with server.listen("127.0.0.1", 0) as listening:
        served().serve_on(listening, twice)
    assert deadline == [server.LAST_SECONDS]


def test_whoever_opens_the_address_as_soon_as_it_is_told_is_answered(deadline):
    answers: list[int] = []

    def ask() -> None:
        async def get() -> None:
            async with aiohttp.ClientSession() as session, session.get(server.address(listening, "127.0.0.1")) as got:
                answers.append(got.status)

        asyncio.run(get())
        os.kill(os.getpid(), signal.SIGINT)

    with server.listen("127.0.0.1", 0) as listening:
        served().serve_on(listening, threading.Thread(target=ask).start)
    assert answers == [403]


@pytest.mark.parametrize("after", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_ctrl_c_ends_the_command_however_early_it_comes_and_shows_no_traceback(tmp_path, after):
    write_recorded(tmp_path / "run")
    program = "from rankdeck.tui.commands import entry; import signal as s; real = s.signal\n"
    program += "def begun(*told):\n    s.signal = real; real(*told); print('begun', flush=True)\n"
    program += "s.signal = begun; entry.main()"
    # "begun" is told from within `main`: before, an interrupt is Python's own affair.
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(tmp_path / "run"), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    threading.Event().wait(after)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert "Traceback" not in said
