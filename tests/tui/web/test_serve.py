"""The dashboard in a browser: `rankdeck serve` as a process, real runs with stand-in ranks, plain HTTP clients."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pyte
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.tui.settings.theme import LIGHT
from rankdeck.tui.web import server
from rankdeck.tui.web.server import listen, view_command

RANKDECK = str(Path(sys.executable).with_name("rankdeck"))
PROMPTS = [f"tell me of number {number}" for number in range(4000)]

Serve = Callable[..., str]


@pytest.fixture
def live(launch, monkeypatch):
    """A run with stand-in ranks that lasts as long as the test."""
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.2")
    return launch(PROMPTS)


@pytest.fixture
def serving(tmp_path):
    """Starts `rankdeck serve …`; ends it by Ctrl-C after the test."""
    begun: list[subprocess.Popen[str]] = []

    def serve(directory: Path, *options: str, at: str = "localhost") -> tuple[str, "subprocess.Popen[str]"]:
        command = [RANKDECK, "serve", str(directory), "--port", "0", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        begun.append(process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith(f"http://{at}:"), process.stderr.read() if process.stderr else ""
        return url, process

    yield serve
    for process in begun:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


class Page:
    """Stands in for a browser: the websocket, and a terminal for what comes over it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, columns: int, rows: int) -> None:
        self.socket = socket
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    async def press(self, keys: str) -> None:
        await self.socket.send_json(["stdin", keys])

    async def see(self, word: str, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while word not in self.text:
                try:
                    message = await self.socket.receive()
                except asyncio.CancelledError:
                    raise AssertionError(f"{word!r} never came:\n{self.text}") from None
                assert message.type == aiohttp.WSMsgType.BINARY, (message, self.text)
                self._stream.feed(message.data)


def base_of(url: str) -> str:
    """The address without its token: `http://localhost:8000/`."""
    return url.partition("?")[0]


@asynccontextmanager
async def let_in(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with the cookie that a browser has after opening the address."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.get(url) as response:
            assert (response.status, response.headers["Refresh"]) == (200, "0; url=/")
        yield session


@asynccontextmanager
async def page(url: str, columns: int = 120, rows: int = 40) -> AsyncIterator[Page]:
    base = base_of(url)
    async with let_in(url) as session:
        address = f"{base.replace('http', 'ws')}ws?width={columns}&height={rows}"
        async with session.ws_connect(address, origin=base.rstrip("/")) as websocket:
            yield Page(websocket, columns, rows)


def changes(directory: Path) -> list[int]:
    """The batch sizes of the run so far, in order."""
    return [
        event.batch_size
        for event in run_directory.read_events(directory)
        if isinstance(event, protocol.BatchSizeChanged)
    ]


async def until_changed(directory: Path, sizes: list[int]) -> None:
    async with asyncio.timeout(20):
        while changes(directory) != sizes:
            await asyncio.sleep(0.05)


def views_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


async def test_a_browser_sees_the_run_and_its_keys_steer_nothing(live, serving):
    url, _ = serving(live.directory)
    async with page(url) as browser:
        await browser.see("tok/s now")
        assert "Throughput" in browser.text
        assert "Results by setting" in browser.text
        await browser.press("+")
        await browser.press("x")
        await browser.press(" ")
        await browser.press("2")
        await browser.see("as they came, following")
        assert "y copy" in browser.text
        assert "E export" not in browser.text, "it would write on the machine that serves"
    assert changes(live.directory) == [4]
    assert run_directory.supervisor_alive(live.directory)
    kinds = {type(event) for event in run_directory.read_events(live.directory)}
    assert not kinds & {protocol.Paused, protocol.Stopping}


async def test_with_control_a_browser_steers_the_run(live, serving):
    url, _ = serving(live.directory, "--control")
    async with page(url) as browser:
        await browser.see("tok/s now")
        await browser.press("+")
        await until_changed(live.directory, [4, 8])


async def test_every_browser_has_its_own_view_that_ends_with_it(live, serving):
    url, process = serving(live.directory)
    async with page(url) as one, page(url, 80, 24) as two:
        await one.see("tok/s now")
        await two.see("tok/s now")
        assert len(views_of(process)) == 2
    for _ in range(500):
        if not views_of(process):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("a view outlived its browser")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
async def test_when_the_server_ends_no_view_is_left_and_the_run_goes_on(live, serving, ending):
    url, process = serving(live.directory)
    async with page(url) as browser:
        await browser.see("tok/s now")
        views = views_of(process)
        assert views
        process.send_signal(ending)
        await asyncio.to_thread(process.communicate, timeout=20)
    _, alive = await asyncio.to_thread(psutil.wait_procs, views, 10)
    assert not alive
    assert process.returncode == (0 if ending != signal.SIGKILL else -signal.SIGKILL)
    assert run_directory.supervisor_alive(live.directory)


async def test_a_browser_that_reads_nothing_is_disconnected_and_slows_nothing_down(live, serving):
    url, process = serving(live.directory)
    host, _, port = base_of(url).removeprefix("http://").rstrip("/").partition(":")
    token = url.partition("?")[2]
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    ask = f"GET /ws?width=400&height=150&{token} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
    ask += "Connection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    writer.write(ask.encode())
    assert b"101" in await reader.readline()
    async with page(url) as browser:
        await browser.see("tok/s now")
        assert len(views_of(process)) == 2
    writer.transport.abort()
    for _ in range(500):
        if not views_of(process):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("a view outlived its browser")


async def test_a_run_that_is_over_is_replayed(launch, serving):
    started = launch(PROMPTS[:8])
    started.process.wait(20)
    url, _ = serving(started.directory)
    async with page(url) as browser:
        await browser.see("Throughput")
        await browser.press(">")
        await browser.see("completed")
        await browser.see("replay")


async def test_the_page_refers_to_nothing_outside_itself(live, serving):
    url, _ = serving(live.directory)
    async with let_in(url) as session:
        async with session.get(base_of(url)) as response:
            text = await response.text()
            assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
        assert "//" not in text.replace('scheme + "//"', "").replace("// By whatever", "")
        for part in ("js/textual.js", "css/xterm.css", "fonts/RobotoMono-VariableFont_wght.ttf"):
            assert f"/static/{part}" in text
            async with session.get(f"{base_of(url)}static/{part}") as response:
                assert response.status == 200


async def test_pages_of_other_sites_are_refused(live, serving):
    url, process = serving(live.directory)
    port = base_of(url).rstrip("/").rsplit(":", 1)[1]
    async with let_in(url) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{base_of(url)}ws", origin="http://evil.example")
        assert refused.value.status == 403
        # Another site's name that points to this loopback, or an invalid name.
        for name in (f"evil.example:{port}", "[", f"localhost:{port}x"):
            async with session.get(url, headers={"Host": name}) as response:
                assert response.status == 403
                assert "served on this machine only" in await response.text()
    assert not views_of(process)


async def test_without_token_and_cookie_there_is_only_a_hint_where_the_address_is(live, serving):
    url, process = serving(live.directory)
    base = base_of(url)
    name = f"rankdeck-{base.rstrip('/').rsplit(':', 1)[1]}"
    async with aiohttp.ClientSession() as session:
        for part in ("", "?token=", "?token=wrong", "?token=%C3%A9", "static/js/textual.js", "download/some-key", "x"):
            async with session.get(base + part) as response:
                assert response.status == 403, part
                assert "the address that `rankdeck serve` printed" in await response.text()
                assert not response.cookies
        async with session.get(base, cookies={name: "wrong"}) as response:
            assert response.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{base}ws?token=wrong", origin=base.rstrip("/"))
        assert refused.value.status == 403
    assert not views_of(process)


async def test_the_token_is_exchanged_for_a_cookie_that_no_script_and_no_other_site_gets(live, serving):
    url, _ = serving(live.directory)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}&fontsize=20") as response:
            assert (response.status, response.headers["Refresh"]) == (200, "0; url=/?fontsize=20")
            assert "token" not in await response.text()
            (cookie,) = response.cookies.values()
        assert cookie["httponly"]
        assert (cookie["samesite"], cookie["path"]) == ("Strict", "/")
        assert cookie.key == f"rankdeck-{base_of(url).rstrip('/').rsplit(':', 1)[1]}"
        async with session.get(base_of(url)) as response:
            assert response.status == 200


async def test_every_server_has_its_own_token(live, serving):
    (one, _), (other, _) = serving(live.directory), serving(live.directory)
    tokens = {url.partition("token=")[2] for url in (one, other)}
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 43
    async with aiohttp.ClientSession() as session, session.get(f"{base_of(one)}?{other.partition('?')[2]}") as response:
        assert response.status == 403


async def test_another_loopback_address_can_be_listened_on_and_is_printed_and_admitted(live, serving):
    url, _ = serving(live.directory, "--host", "127.0.0.2", at="127.0.0.2")
    async with page(url) as browser:
        await browser.see("tok/s now")


@pytest.mark.parametrize(
    ("host", "local", "name"),
    [
        ("127.0.0.1", True, "localhost"),
        ("localhost", True, "localhost"),
        ("127.0.0.2", True, "127.0.0.2"),
        ("127.1", True, "localhost"),
        ("0.0.0.0", False, socket.gethostname()),
    ],
)
def test_what_is_local_and_what_is_printed_follow_from_where_it_listens(host: str, local: bool, name: str):
    with listen(host, 0) as listening:
        port = listening.getsockname()[1]
        assert server.is_loopback(listening) is local
        assert server.address(listening, host) == f"http://{name}:{port}"
        refused = server.admission(listening, host).refused
        assert refused(f"{name}:{port}", None) is None
        assert (refused(f"evil.example:{port}", None) is None) is not local, "elsewhere the token alone decides"


async def test_nonsense_from_a_browser_ends_only_its_view(live, serving):
    url, process = serving(live.directory)
    for word in ("nonsense", "{}", '["resize", {"width": "wide"}]', '["stdin"]', '["resize", {"width": 1e9}]'):
        address = f"{base_of(url)}ws?width=9999999&height=x"
        async with let_in(url) as session, session.ws_connect(address) as browser:
            await browser.send_str(word)
            async with asyncio.timeout(20):
                async for _ in browser:
                    pass
    async with page(url) as browser:
        await browser.see("tok/s now")
    assert process.poll() is None


def test_any_name_of_a_run_directory_is_one_word_to_the_shell(tmp_path):
    directory = tmp_path / "a run; touch $HOME/hacked 'x' \"y\" `z`"
    line = view_command(directory, control=True).replace(
        "-P -m rankdeck.tui.web.view", "-c 'import sys; print(sys.argv[1:])'"
    )
    told = subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout
    assert "--theme" not in line
    assert told.strip() == repr([str(directory), "--control"])


async def test_the_audience_sees_the_theme_that_was_asked_for(live, serving):
    url, _ = serving(live.directory, "--theme", "rankdeck-light")
    async with page(url) as browser:
        await browser.see("tok/s now")
        assert browser.screen.buffer[2][5].bg == LIGHT.background.removeprefix("#")


def test_an_unknown_theme_is_refused_before_the_server_listens(live):
    said = subprocess.run(
        [RANKDECK, "serve", str(live.directory), "--theme", "rankdeck-lite"], capture_output=True, text=True
    )
    assert said.returncode == 2
    assert "--theme: there is no theme 'rankdeck-lite'; did you mean rankdeck-light" in said.stderr


def test_a_port_that_is_taken_is_refused(live, tmp_path):
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([RANKDECK, "serve", str(live.directory), "--port", port], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"--port: {port} is taken on 127.0.0.1" in done.stderr


def test_an_unknown_host_is_refused(live):
    done = subprocess.run(
        [RANKDECK, "serve", str(live.directory), "--host", "no.such.host.invalid"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--host: no.such.host.invalid" in done.stderr


def test_listening_beyond_the_loopback_causes_a_warning(live):
    command = [RANKDECK, "serve", str(live.directory), "--port", "0", "--host", "0.0.0.0", "--control"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert socket.gethostname() in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert "warning: whoever has this address, or listens on the network, can read all prompts and answers, " in said
    assert "steer the run" in said


def test_without_the_extra_web_serve_says_how_to_install_it(live, tmp_path):
    hidden = tmp_path / "hidden" / "aiohttp"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('none', name='aiohttp')")
    path = os.pathsep.join([str(hidden.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [RANKDECK, "serve", str(live.directory)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 2
    assert "pip install 'rankdeck[web]'" in done.stderr


def test_an_unknown_run_is_refused_before_the_server_listens(state_home):
    done = subprocess.run([RANKDECK, "serve", "nobody"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "nobody" in done.stderr
    assert json.dumps(done.stdout) == '""'
