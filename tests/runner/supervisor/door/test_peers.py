"""One connection: its lines, however they arrive, what waits for it, and how it is hung up on."""

import asyncio

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.machine.kernel import PeerProcess
from rankdeck.runner.supervisor.door import peers
from rankdeck.runner.supervisor.door.peers import (
    COMMAND_BYTES,
    GREETING_BYTES,
    LONGEST_REPROACH,
    Lines,
    NoMessageError,
    Peer,
    RankPeer,
    decode,
)
from rankdeck.runner.supervisor.door.viewers import Viewer

HELLO = protocol.RankHello(rank=0, world_size=1, attempt=1)


class Reader:
    """Blocks as they arrive, then the end; an error in their place is raised."""

    def __init__(self, *blocks) -> None:
        self.blocks = list(blocks)

    async def read(self, most: int) -> bytes:
        block = self.blocks.pop(0) if self.blocks else b""
        if isinstance(block, Exception):
            raise block
        assert len(block) <= most
        return block


def lines_of(*blocks, most: int = 10) -> Lines:
    lines = Lines(Reader(*blocks))  # type: ignore[arg-type]
    lines.most = most
    return lines


async def all_of(lines: Lines) -> list[bytes]:
    found = []
    while line := await lines.next():
        found.append(line)
    return found


@pytest.mark.parametrize(
    "blocks", [(b"one\ntwo\nthr",), (b"o", b"ne", b"\n", b"two\nth", b"r"), (b"one\nt", b"wo\n", b"thr")]
)
async def test_lines_are_the_same_however_they_arrive_and_the_last_needs_no_end(blocks):
    assert await all_of(lines_of(*blocks)) == [b"one\n", b"two\n", b"thr"]


@pytest.mark.parametrize("blocks", [(b"x" * 10 + b"\n",), (b"x" * 10, b"\n")])
async def test_a_line_may_be_as_long_as_the_bound_without_its_end(blocks):
    assert await all_of(lines_of(*blocks)) == [b"x" * 10 + b"\n"]


@pytest.mark.parametrize("blocks", [(b"x" * 11 + b"\n",), (b"x" * 10, b"x"), (b"x" * 11,)])
async def test_a_longer_one_is_no_message(blocks):
    with pytest.raises(NoMessageError, match="a line of more than 10 bytes"):
        await lines_of(*blocks).next()


@pytest.mark.parametrize("blocks", [(b"\none\n\n",), (b"\n", b"one", b"\n", b"\n")])
async def test_an_empty_line_is_a_line_of_its_own(blocks):
    assert await all_of(lines_of(*blocks)) == [b"\n", b"one\n", b"\n"]


async def test_what_came_before_a_line_that_is_too_long_is_still_read():
    lines = lines_of(b"one\n" + b"x" * 20)
    assert await lines.next() == b"one\n"
    with pytest.raises(NoMessageError):
        await lines.next()


async def test_a_connection_that_breaks_has_no_further_lines():
    peer = Peer(lines_of(b"one\n", ConnectionResetError()), None)  # type: ignore[arg-type]
    assert [line async for line in peer.lines()] == [b"one\n"]


def test_what_a_peer_may_send_depends_on_who_it_is():
    fresh = lines_of()
    assert Lines(Reader()).most == GREETING_BYTES == 4096  # type: ignore[arg-type]
    RankPeer(fresh, None, HELLO)  # type: ignore[arg-type]
    assert fresh.most == protocol.MAX_LINE_BYTES
    Viewer(fresh, None)  # type: ignore[arg-type]
    assert fresh.most == COMMAND_BYTES == 64 * 1024


def test_whose_process_a_rank_is_is_the_kernels_word():
    assert RankPeer(lines_of(), None, HELLO).pid is None  # type: ignore[arg-type]
    known = RankPeer(lines_of(), None, HELLO, PeerProcess(pid=12, uid=0))  # type: ignore[arg-type]
    assert (known.pid, known.hello) == (12, HELLO)


class Writer:
    """The writing end, which keeps what is done."""

    def __init__(self, *, closing: bool = False) -> None:
        self.done: list = []
        self.closing = closing
        self.transport = self

    def is_closing(self) -> bool:
        return self.closing

    def write(self, line: bytes) -> None:
        self.done.append(line)

    def get_write_buffer_size(self) -> int:
        return 17

    def set_write_buffer_limits(self, *, high: int) -> None:
        self.done.append(high)

    async def drain(self) -> None:
        self.done.append("drain")
        await asyncio.Event().wait()

    def close(self) -> None:
        self.done.append("close")
        raise ConnectionResetError

    def abort(self) -> None:
        self.done.append("abort")


async def test_what_a_peer_is_told_is_written_unless_it_is_hung_up_on():
    writer = Writer()
    peer = RankPeer(lines_of(), writer, HELLO)  # type: ignore[arg-type]
    peer.send(protocol.Leave(gather=True))
    peer.refuse("no room")
    assert writer.done == [
        protocol.encode_line(protocol.Leave(gather=True)),
        protocol.encode_line(protocol.Refused(reason="no room")),
    ]
    assert peer.backlog == 17
    closed = Writer(closing=True)
    Peer(lines_of(), closed).write(b"x")  # type: ignore[arg-type]
    assert closed.done == []


async def test_a_peer_that_does_not_read_is_waited_for_only_so_long_and_a_broken_one_can_be_closed():
    writer = Writer()
    peer = Peer(lines_of(), writer)  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        await peer.drained(0.0)
    assert writer.done[:1] == [0]
    peer.close()
    peer.abort()
    assert writer.done[-2:] == ["close", "abort"]


def test_what_is_no_message_is_quoted_only_in_part():
    assert decode(protocol.encode_line(protocol.Pause()), protocol.Command) == protocol.Pause()
    deep = b'{"type":"pause","unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for line in (b"", b"{", b"\xff\xfe", b'{"type":"no such"}', b"[" * 100_000, deep):
        with pytest.raises(NoMessageError):
            decode(line, protocol.Command)
    with pytest.raises(NoMessageError) as error:
        decode(b'{"type":"' + b"x" * 5000 + b'"}', protocol.Command)
    assert len(str(error.value)) == LONGEST_REPROACH == 300


async def test_the_messages_of_a_rank_end_with_the_first_that_is_none():
    good = protocol.RankPhase(rank=0, phase="loading")
    peer = RankPeer(lines_of(protocol.encode_line(good) + b"nonsense\n"), None, HELLO)  # type: ignore[arg-type]
    messages = peer.messages()
    assert await anext(messages) == good
    with pytest.raises(NoMessageError):
        await anext(messages)
    assert peers.READ_BYTES == 64 * 1024
