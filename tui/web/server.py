"""The web server of `rankdeck serve`: textual-serve's, closed to who has no token; its page needs nothing from outside.

Each browser gets a view of its own, a process that ends with the connection. Knows HTTP and processes; what a
view shows is the view's business (tui/web/view.py). Needs the extra `web`.
"""

import asyncio
import contextlib
import ipaddress
import logging
import shlex
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import WSCloseCode, web
from textual_serve.app_service import AppService
from textual_serve.server import Server, to_int

from rankdeck.tui.web.admission import NO_TOKEN, PARAMETER, Admission

MOST_VIEWERS = 32
"""Each is a process of some 60 MB: a crowd must not take the machine from the ranks."""

ENDING_SECONDS = 3.0
COLUMNS, ROWS = (20, 400), (6, 150)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self' ws: wss:; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
"""The browser, too, fetches nothing from elsewhere, and shows the page in no other site's frame."""

log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one.

    Raises:
        OSError: it cannot be had.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family)


def is_loopback(listening: socket.socket) -> bool:
    """By the address that is listened on: what a name like 127.example.com stands for, the name does not say."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def address(listening: socket.socket, host: str) -> str:
    """Where a browser finds the page that is served there, without its token; `host` is what was asked for."""
    bound, port = listening.getsockname()[:2]
    if is_loopback(listening):
        name = "localhost" if bound == "127.0.0.1" else bound
    else:
        name = socket.gethostname() if ipaddress.ip_address(bound).is_unspecified else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def admission(listening: socket.socket, host: str) -> Admission:
    """On the loopback only its names get in, and what was asked for; elsewhere a machine has names we do not know."""
    return Admission((listening.getsockname()[0], host) if is_loopback(listening) else None)


def view_command(directory: Path, *, control: bool, theme: str | None = None) -> str:
    """What a shell is told to start for a browser."""
    command = [sys.executable, "-P", "-m", "rankdeck.tui.web.view", str(directory)]
    command += ["--control"] if control else []
    command += ["--theme", theme] if theme is not None else []
    return "exec " + shlex.join(command)


class Viewer(AppService):
    """One browser's view."""

    async def set_terminal_size(self, width: int, height: int) -> None:
        await super().set_terminal_size(_within(width, COLUMNS), _within(height, ROWS))

    async def stop(self) -> None:
        """Ask the view to end; one that does not is ended."""
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
    """Serves the views of one run on a socket that listens already."""

    def __init__(self, directory: Path, *, title: str, control: bool, theme: str | None, admission: Admission) -> None:
        command = view_command(directory, control=control, theme=theme)
        super().__init__(command, title=title, templates_path=Path(__file__).with_name("page"))
        self._admission = admission
        self._sockets: set[web.WebSocketResponse] = set()

    def serve_on(self, listening: socket.socket, ready: Callable[[], None]) -> None:
        """Serve until Ctrl-C or SIGTERM; no view is left behind. `ready` is called once both would be heard."""
        self._ready = ready
        web.run_app(
            self._make_app(), sock=listening, print=None, access_log=None, shutdown_timeout=2 * ENDING_SECONDS + 1
        )

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._admitted)
        return app

    async def on_startup(self, app: web.Application) -> None:
        """Whoever is told where the page is may press Ctrl-C at once: the signals' handlers are there by now."""
        self._ready()

    async def on_shutdown(self, app: web.Application) -> None:
        await asyncio.gather(
            *(socket.close(code=WSCloseCode.GOING_AWAY) for socket in self._sockets), return_exceptions=True
        )

    @web.middleware
    async def _admitted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Nothing for other sites' pages, nor for who has no token; a token is exchanged for a cookie."""
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
        """The token goes out of the address, where others may look over a shoulder or into the history.

        A refresh is a redirect from a page of ours: after a 303 the browser would still count where the address was
        clicked, and to another site's link, as in a chat, it would not give the cookie.
        """
        page = str(request.rel_url.without_query_params(PARAMETER))
        response = web.Response(text="opening", headers={"Refresh": f"0; url={page}"})
        response.set_cookie(*self._admission.cookie(request.host), httponly=True, samesite="Strict")
        return response

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """A browser: its view starts here and ends here."""
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
        except (ConnectionError, ValueError, TypeError, KeyError, IndexError, AssertionError) as error:
            # What a browser sends is as good as anything: one that talks nonsense is left.
            log.warning("a browser was left: %s", error)
        finally:
            self._sockets.discard(websocket)
            await asyncio.shield(viewer.stop())
        return websocket


def _within(value: object, bounds: tuple[int, int]) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a size of {value!r}")
    return min(bounds[1], max(bounds[0], value))
