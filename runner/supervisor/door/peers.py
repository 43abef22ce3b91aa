"""A connection: its process as the kernel names it, and its lines and messages, none longer than its kind may send.

Knows framing and back-pressure. Does not know who may come in, nor what a message means.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.machine.kernel import PeerProcess
from rankdeck.runner.protocol import FromRank, RankHello, ToRank

GREETING_BYTES = 4096
COMMAND_BYTES = 64 * 1024
READ_BYTES = 64 * 1024

LONGEST_REPROACH = 300
"""Characters of what is said about a bad message: it may quote the message."""


class NoMessageError(Exception):
    """A peer sent something that is not a message, or too long to be one."""


class Lines:
    """The lines of a connection, each `most` bytes long at most: until it has greeted, as long as a greeting is."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.most = GREETING_BYTES
        self._reader = reader
        self._unread = bytearray()

    async def next(self) -> bytes:
        """The next line; at the end of the connection what is left of one, then nothing.

        Raises:
            NoMessageError: the line is longer than it may be.
        """
        searched = 0
        while (end := self._unread.find(b"\n", searched)) < 0 and len(self._unread) <= self.most:
            searched = len(self._unread)
            block = await self._reader.read(READ_BYTES)
            if not block:
                return self._taken(searched)
            self._unread += block
        if not 0 <= end <= self.most:
            raise NoMessageError(f"a line of more than {self.most:,} bytes")
        return self._taken(end + 1)

    def _taken(self, count: int) -> bytes:
        line = bytes(self._unread[:count])
        del self._unread[:count]
        return line


class Peer:
    """One connection. `process` is None where the system cannot tell whose it is."""

    def __init__(self, lines: Lines, writer: asyncio.StreamWriter, process: PeerProcess | None = None) -> None:
        self._lines, self._writer, self.process = lines, writer, process

    async def lines(self) -> AsyncIterator[bytes]:
        """Lines until the peer hangs up.

        Raises:
            NoMessageError: a line is longer than any message of this peer may be.
        """
        with contextlib.suppress(ConnectionError):
            while line := await self._lines.next():
                yield line

    @property
    def backlog(self) -> int:
        """Bytes written that the peer has not read yet."""
        return self._writer.transport.get_write_buffer_size()

    def write(self, line: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(line)

    def refuse(self, reason: str) -> None:
        """Say why this peer is not let in."""
        self.write(protocol.encode_line(protocol.Refused(reason=reason)))

    async def drained(self, seconds: float) -> None:
        """Wait up to `seconds` for the peer to read what was written."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(seconds):
                self._writer.transport.set_write_buffer_limits(high=0)
                await self._writer.drain()

    def close(self) -> None:
        """Hang up once the peer has read what was written."""
        with contextlib.suppress(ConnectionError):
            self._writer.close()

    def abort(self) -> None:
        """Hang up now: a peer that does not read must not keep a descriptor."""
        self._writer.transport.abort()


class RankPeer(Peer):
    """A connected rank, which has greeted."""

    def __init__(
        self, lines: Lines, writer: asyncio.StreamWriter, hello: RankHello, process: PeerProcess | None = None
    ) -> None:
        super().__init__(lines, writer, process)
        lines.most = protocol.MAX_LINE_BYTES
        self.hello = hello

    @property
    def pid(self) -> int | None:
        """The process at the other end, by the kernel's word: ranks are not asked."""
        return self.process.pid if self.process is not None else None

    def send(self, order: ToRank) -> None:
        self.write(protocol.encode_line(order))

    async def messages(self) -> AsyncIterator[FromRank]:
        """The messages of the rank until it hangs up.

        Raises:
            NoMessageError: it sent something that is not a message.
        """
        async for line in self.lines():
            yield decode(line, FromRank)


def decode(line: bytes, kind: Any) -> Any:
    """The message in a line.

    Raises:
        NoMessageError: there is none of this kind.
    """
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NoMessageError(str(error)[:LONGEST_REPROACH]) from None
