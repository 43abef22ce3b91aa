"""A headless Chromium for tests, driven over the DevTools protocol, with a terminal for what its websockets get."""

import asyncio
import base64
import itertools
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import pyte

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--remote-debugging-port=0", "--window-size=1400,900"),
)


class Chromium:
    """One page. `text` is what the terminal in it was told to show; `asked` is every address the page asked for."""

    def __init__(self, columns: int = 400, rows: int = 150) -> None:
        self.asked: list[str] = []
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> "Chromium":
        assert CHROMIUM is not None
        self._folder = tempfile.TemporaryDirectory()
        self._process = await asyncio.create_subprocess_exec(
            CHROMIUM, *FLAGS, f"--user-data-dir={self._folder.name}", "about:blank", stderr=asyncio.subprocess.PIPE
        )
        port_file = Path(self._folder.name) / "DevToolsActivePort"
        async with asyncio.timeout(60):
            while not port_file.exists() or "\n" not in port_file.read_text():
                assert self._process.returncode is None, (await self._process.communicate())[1].decode()
                await asyncio.sleep(0.05)
        self._drained = asyncio.create_task(self._drain())
        self._session = aiohttp.ClientSession()
        base = f"http://127.0.0.1:{port_file.read_text().splitlines()[0]}"
        async with self._session.get(f"{base}/json") as response:
            (page, *_) = [page for page in await response.json() if page["type"] == "page"]
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=2**26)
        self._listening = asyncio.create_task(self._listen())
        for domain in ("Network", "Page", "Runtime"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()
        self._drained.cancel()
        await self._session.close()
        self._process.terminate()
        await self._process.wait()
        self._folder.cleanup()

    async def _drain(self) -> None:
        assert self._process.stderr is not None
        while await self._process.stderr.read(65536):
            pass

    async def _listen(self) -> None:
        async for message in self._socket:
            told = message.json()
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] == "Network.requestWillBeSent":
                self.asked.append(told["params"]["request"]["url"])
            elif told["method"] == "Network.webSocketCreated":
                self.asked.append(told["params"]["url"])
            elif told["method"] == "Network.webSocketFrameReceived":
                frame = told["params"]["response"]
                if frame["opcode"] == 2:
                    self._stream.feed(base64.b64decode(frame["payloadData"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask something of the page."""
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(30):
            answer = await self._answers[number]
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        return (await self.call("Runtime.evaluate", expression=expression))["result"].get("value")

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    async def see(self, word: str, seconds: float = 60) -> None:
        try:
            async with asyncio.timeout(seconds):
                while word not in self.text:
                    assert not self._listening.done(), self._listening
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{word!r} never came:\n{self.text}") from None

    async def press(self, character: str) -> None:
        """A key, as a person at the page presses it."""
        await self.evaluate("document.querySelector('.xterm-helper-textarea').focus()")
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=character, text=character if kind == "keyDown" else ""
            )

    async def picture(self) -> bytes:
        """What the page looks like, as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


def colours(png: bytes) -> dict[bytes, int]:
    """How many of a picture's pixels have each colour (8 bits a channel, not interlaced: what Chromium writes)."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", png[16:29])
    assert (depth, interlaced) == (8, 0)
    size = {2: 3, 6: 4}[kind]
    data, at = b"", 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    raw = zlib.decompress(data)
    before = bytearray(width * size)
    counts: dict[bytes, int] = {}
    for row in range(height):
        start = row * (width * size + 1)
        way, line = raw[start], bytearray(raw[start + 1 : start + 1 + width * size])
        for place in range(width * size):
            left = line[place - size] if place >= size else 0
            up, corner = before[place], before[place - size] if place >= size else 0
            line[place] = (line[place] + _guess(way, left, up, corner)) & 255
        for place in range(0, width * size, size):
            pixel = bytes(line[place : place + 3])
            counts[pixel] = counts.get(pixel, 0) + 1
        before = line
    return counts


def _guess(way: int, left: int, up: int, corner: int) -> int:
    """PNG's five ways to foretell a byte from its neighbours."""
    if way == 4:
        near = left + up - corner
        return min((left, up, corner), key=lambda value: abs(near - value))
    return (0, left, up, (left + up) // 2)[way]
