"""The supervisor's socket: who may connect, what they may say, and how much waits for a slow reader.

Knows greetings, framing, peers and back-pressure, but not what a run is: it hands ranks and commands on. A viewer that
reads too slowly loses events and gets a fresh snapshot when it reads again; it slows nobody down, and its backlog is
bounded.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import Command, FromRank, Greeting, RankHello, ToRank

GREETING_SECONDS = 10.0
VIEWER_BACKLOG_BYTES = 1024 * 1024


class NoMessageError(Exception):
    """A peer sent something that is not a message, or too long to be one."""


class Peer:
    """One connection, after its greeting."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def lines(self) -> AsyncIterator[bytes]:
        """Lines until the peer hangs up.

        Raises:
            NoMessageError: a line is longer than any message may be.
        """
        with contextlib.suppress(ConnectionError):
            while line := await _read_line(self._reader):
                yield line

    @property
    def backlog(self) -> int:
        """Bytes written that the peer has not read yet."""
        return self._writer.transport.get_write_buffer_size()

    def write(self, line: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(line)

    async def drained(self, seconds: float) -> None:
        """Wait up to `seconds` for the peer to read what was written."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(seconds):
                self._writer.transport.set_write_buffer_limits(high=0)
                await self._writer.drain()

    def close(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._writer.close()


class RankPeer(Peer):
    """A connected rank."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: RankHello) -> None:
        super().__init__(reader, writer)
        self.hello = hello

    def send(self, order: ToRank) -> None:
        self.write(protocol.encode_line(order))

    async def messages(self) -> AsyncIterator[FromRank]:
        """The messages of the rank until it hangs up.

        Raises:
            NoMessageError: it sent something that is not a message.
        """
        async for line in self.lines():
            yield _decode(line, FromRank)


class _Viewer(Peer):
    lagging = False


class Viewers:
    """All connected viewers. `snapshot` returns the present state as a line."""

    def __init__(self, snapshot: Callable[[], bytes]) -> None:
        self._snapshot = snapshot
        self._viewers: set[_Viewer] = set()

    def __len__(self) -> int:
        return len(self._viewers)

    def add(self, viewer: _Viewer) -> None:
        viewer.write(self._snapshot())
        self._viewers.add(viewer)

    def remove(self, viewer: _Viewer) -> None:
        self._viewers.discard(viewer)

    def offer(self, line: bytes) -> None:
        """Send an event to every viewer that keeps up."""
        for viewer in self._viewers:
            if viewer.lagging:
                continue
            if viewer.backlog > VIEWER_BACKLOG_BYTES:
                viewer.lagging = True
            else:
                viewer.write(line)

    def catch_up(self) -> None:
        """Send a fresh snapshot to every viewer that had fallen behind and reads again."""
        for viewer in self._viewers:
            if viewer.lagging and not viewer.backlog:
                viewer.lagging = False
                viewer.write(self._snapshot())

    async def close(self, seconds: float) -> None:
        """Let viewers read to the end, for up to `seconds`, and hang up."""
        await asyncio.gather(*(self._to_the_end(viewer, seconds) for viewer in self._viewers))

    async def _to_the_end(self, viewer: _Viewer, seconds: float) -> None:
        if viewer.lagging:
            # Once it has read what was written before, the last snapshot has what it missed.
            await viewer.drained(seconds)
            viewer.write(self._snapshot())
        await viewer.drained(seconds)
        viewer.close()


class Server:
    """Accepts peers of this user on a unix socket.

    `on_rank` is awaited with every rank that has greeted, for as long as it is connected; `on_command` gets each
    command of a viewer; `log` gets a line on every connection that was refused or broke the rules.
    """

    def __init__(
        self,
        path: Path,
        *,
        viewers: Viewers,
        on_rank: Callable[[RankPeer], Awaitable[None]],
        on_command: Callable[[Command], None],
        log: Callable[[str], None],
    ) -> None:
        self._path, self._viewers = path, viewers
        self._on_rank, self._on_command, self._log = on_rank, on_command, log
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, in place of any socket file that a killed supervisor left: the run's lock is held already."""
        self._path.unlink(missing_ok=True)
        umask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._accept, path=str(self._path), limit=protocol.MAX_LINE_BYTES
            )
        finally:
            os.umask(umask)

    async def restore(self) -> None:
        """Listen again if something that cleans /tmp has removed the socket's file; open connections stay."""
        if not self._path.exists():
            if self._server is not None:
                self._server.close()
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            await self.start()
            self._log(f"the socket was gone; listening again at {self._path}")

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except TimeoutError:
            self._log("a connection said nothing and was closed")
        except NoMessageError as error:
            self._log(f"closed a connection that sent something that is not a message: {error}")
        except ConnectionError:
            pass
        finally:
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (uid := _peer_uid(writer)) not in (None, os.getuid(), 0):
            self._log(f"refused a connection of uid {uid}")
            return
        async with asyncio.timeout(GREETING_SECONDS):
            line = await _read_line(reader)
        if not line:
            return
        greeting: RankHello | protocol.ViewerHello = _decode(line, Greeting)
        if greeting.version != protocol.PROTOCOL_VERSION:
            reason = (
                f"this run speaks protocol {protocol.PROTOCOL_VERSION}, not {greeting.version}; use the same rankdeck"
            )
            writer.write(protocol.encode_line(protocol.Refused(reason=reason)))
            await writer.drain()
            self._log(f"refused a connection: {reason}")
        elif isinstance(greeting, RankHello):
            await self._on_rank(RankPeer(reader, writer, greeting))
        else:
            await self._watch(_Viewer(reader, writer))

    async def _watch(self, viewer: _Viewer) -> None:
        self._viewers.add(viewer)
        try:
            async for line in viewer.lines():
                self._on_command(_decode(line, Command))
        finally:
            self._viewers.remove(viewer)


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        raise NoMessageError(f"a line of more than {protocol.MAX_LINE_BYTES} bytes") from None


def _decode(line: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoMessageError(str(error)) from None


def _peer_uid(writer: asyncio.StreamWriter) -> int | None:
    """The peer's user id, from the kernel; None where the system cannot tell (the socket has mode 0600 anyway)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = struct.calcsize("3i")
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)
