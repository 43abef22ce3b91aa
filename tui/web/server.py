"""The web server of `rankdeck serve`: textual-serve's, closed without the token; its page loads nothing from elsewhere.

Each browser gets its own view, a process that ends with the connection. Knows HTTP and processes; what a view shows is
the view's business (tui/web/view.py). Needs the extra `web`.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import shlex
import signal
import socket
import sys
import threading
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import WSCloseCode, web
from textual_serve.app_service import AppService
from textual_serve.server import Server, to_int

from rankdeck.tui.web.admission import NO_TOKEN, PARAMETER, Admission

MOST_VIEWERS = 32
"""Each is a process of about 60 MB; they must not take the machine's memory from the ranks."""

ENDING_SECONDS = 3.0
LAST_SECONDS = 15.0
"""After Ctrl-C the server has ended by then, in good order or not."""

COLUMNS, ROWS = (20, 400), (6, 150)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self' ws: wss:; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
"""The browser loads nothing from elsewhere, and does not show the page in another site's frame."""

log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket listening on `host` and `port`; port 0 is any free one.

    Raises:
        OSError: it cannot listen there.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family)


def is_loopback(listening: socket.socket) -> bool:
    """Whether the socket's address is on the loopback; a name like 127.example.com would not tell."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def address(listening: socket.socket, host: str) -> str:
    """The address of the page for a browser, without the token; `host` is what the user asked to listen on."""
    bound, port = listening.getsockname()[:2]
    if is_loopback(listening):
        name = "localhost" if bound == "127.0.0.1" else bound
    else:
        name = socket.gethostname() if ipaddress.ip_address(bound).is_unspecified else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def admission(listening: socket.socket, host: str) -> Admission:
    """On the loopback, requests may use its names and `host`; else any name, as the machine may have several."""
    return Admission((listening.getsockname()[0], host) if is_loopback(listening) else None)


def view_command(directory: Path, *, control: bool, theme: str | None = None) -> str:
    """The shell command that starts the view for a browser."""
    command = [sys.executable, "-P", "-m", "rankdeck.tui.web.view", str(directory)]
    command += ["--control"] if control else []
    command += ["--theme", theme] if theme is not None else []
    return "exec " + shlex.join(command)


class Viewer(AppService):
    """One browser's view."""

    async def set_terminal_size(self, width: int, height: int) -> None:
        await super().set_terminal_size(_within(width, COLUMNS), _within(height, ROWS))

    async def stop(self) -> None:
        """Ask the view to end, and kill it if it does not."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(ENDING_SECONDS):
                await super().stop()
        process: Process | None = self._process
        if process is not None and process.returncode is None:
            try:
                async with asyncio.timeout(ENDING_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


class RunServer(Server):
    """Serves the views of one run."""

    def __init__(self, directory: Path, *, title: str, control: bool, theme: str | None, admission: Admission) -> None:
        command = view_command(directory, control=control, theme=theme)
        super().__init__(command, title=title, templates_path=Path(__file__).with_name("page"))
        self._admission = admission
        self._sockets: set[web.WebSocketResponse] = set()
        self._endings: set[asyncio.Future[None]] = set()

    def serve_on(self, listening: socket.socket, ready: Callable[[], None]) -> None:
        """Serve until Ctrl-C or SIGTERM, and end all views; `ready` is called once browsers are let in."""
        asyncio.run(self._serve(listening, ready))

    async def _serve(self, listening: socket.socket, ready: Callable[[], None]) -> None:
        # A signal only says that it is time: raised through the loop, it would come in the middle of anything.
        told = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, _end_soon, told)
        runner = web.AppRunner(
            await self._make_app(), handle_signals=False, access_log=None, shutdown_timeout=2 * ENDING_SECONDS + 1
        )
        await runner.setup()
        try:
            await web.SockSite(runner, listening).start()
            ready()
            await told.wait()
        finally:
            await runner.cleanup()
            await asyncio.gather(*self._endings, return_exceptions=True)

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._admitted)
        return app

    async def on_startup(self, app: web.Application) -> None:
        """Say nothing: `serve_on` does, and textual-serve would print its logo."""

    async def on_shutdown(self, app: web.Application) -> None:
        await asyncio.gather(
            *(socket.close(code=WSCloseCode.GOING_AWAY) for socket in self._sockets), return_exceptions=True
        )

    @web.middleware
    async def _admitted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse requests from other sites' pages or without the token; exchange the token for a cookie."""
        refused = self._admission.refused(request.host, request.headers.get("Origin"))
        if refused is None and not self._admission.knows(request.host, request.query, request.cookies):
            refused = NO_TOKEN
        if refused is not None:
            raise web.HTTPForbidden(text=refused)
        if request.path == "/" and self._admission.is_token(request.query.get(PARAMETER)):
            response: web.StreamResponse = self._exchanged(request)
        else:
            response = await handler(request)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _exchanged(self, request: web.Request) -> web.Response:
        """Take the token out of the address, where it can be read over a shoulder or in the history.

        By a refresh, which counts as coming from our own page: a 303 would count as coming from where the address was
        clicked, and if that was another site, such as a chat, the browser would not send the cookie.
        """
        page = str(request.rel_url.without_query_params(PARAMETER))
        response = web.Response(text="opening", headers={"Refresh": f"0; url={page}"})
        response.set_cookie(*self._admission.cookie(request.host), httponly=True, samesite="Strict")
        return response

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Serve a browser: start its view, and end it with the connection."""
        if len(self._sockets) >= MOST_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{MOST_VIEWERS} browsers are watching already")
        websocket = web.WebSocketResponse(heartbeat=15, timeout=ENDING_SECONDS)
        self._sockets.add(websocket)

        async def close() -> None:
            await websocket.close()

        viewer = Viewer(
            self.command,
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=close,
            download_manager=self.download_manager,
        )
        try:
            await websocket.prepare(request)
            await viewer.start(
                _within(to_int(request.query.get("width", ""), 80), COLUMNS),
                _within(to_int(request.query.get("height", ""), 24), ROWS),
            )
            await self._process_messages(websocket, viewer)
        except (ConnectionError, ValueError, TypeError, AttributeError, LookupError, AssertionError) as error:
            # A browser may send anything: one that sends nonsense is disconnected.
            log.warning("a browser was left: %s", error)
        finally:
            # The connection may be gone, and this handler with it: the view is ended all the same.
            ending = asyncio.ensure_future(self._end(viewer, websocket))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            await asyncio.shield(ending)
        return websocket

    async def _end(self, viewer: Viewer, websocket: web.WebSocketResponse) -> None:
        try:
            await viewer.stop()
        finally:
            self._sockets.discard(websocket)  # only now: its process counts until it has ended


def _end_soon(told: asyncio.Event) -> None:
    """End in good order, and in any case before long."""
    if not told.is_set():
        last = threading.Timer(LAST_SECONDS, os._exit, (1,))
        last.daemon = True
        last.start()
        told.set()


def _within(value: object, bounds: tuple[int, int]) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a size of {value!r}")
    return min(bounds[1], max(bounds[0], value))
