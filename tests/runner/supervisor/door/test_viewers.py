"""Viewers: each keeps up or gets one snapshot later, and what waits for it is bounded."""

import asyncio
from pathlib import Path

import pytest

from rankdeck.runner.supervisor.door.viewers import VIEWER_BACKLOG_BYTES, Viewers


class SlowViewer:
    """A viewer whose unread bytes are set by the test."""

    def __init__(self) -> None:
        self.lagging = False
        self.unread = 0
        self.lines: list[bytes] = []

    @property
    def backlog(self) -> int:
        return self.unread

    def write(self, line: bytes) -> None:
        self.lines.append(line)
        self.unread += len(line)

    async def drained(self, seconds: float) -> None:
        self.lines.append(b"drained")
        self.unread = 0

    def close(self) -> None:
        self.lines.append(b"closed")


@pytest.fixture
def slow():
    """A viewer that has read its first snapshot and then nothing."""
    snapshots = iter(range(1000))
    viewers = Viewers(lambda: b"snapshot %d\n" % next(snapshots))
    viewer = SlowViewer()
    viewers.add(viewer)  # type: ignore[arg-type]
    viewer.unread = 0
    return viewers, viewer


def test_a_lagging_viewer_is_sent_nothing_until_it_has_read_all_and_then_one_snapshot(slow):
    viewers, viewer = slow
    event = b"x" * (VIEWER_BACKLOG_BYTES // 4)
    for _ in range(10):
        viewers.offer(event)
    assert viewer.lines == [b"snapshot 0\n", *[event] * 4]
    for _ in range(20):
        viewers.catch_up()
        viewer.unread -= 1000  # it reads slowly
    assert viewer.lines[5:] == [], "no snapshot before it has read what was written"
    viewer.unread = 0
    for _ in range(20):
        viewers.catch_up()
    assert viewer.lines[5:] == [b"snapshot 1\n"], "one snapshot, however often it is looked at"
    viewers.offer(b"event\n")
    assert viewer.lines[6:] == [b"event\n"]


def test_a_viewer_that_keeps_up_is_never_sent_a_second_snapshot(slow):
    viewers, viewer = slow
    for _ in range(20):
        viewers.offer(b"event\n")
        viewers.catch_up()
        viewer.unread = 0
    assert viewer.lines == [b"snapshot 0\n", *[b"event\n"] * 20]


def test_unread_bytes_never_exceed_the_bound_even_by_one_long_event(slow):
    viewers, viewer = slow
    viewers.offer(b"x" * VIEWER_BACKLOG_BYTES)
    viewers.offer(b"y")
    assert viewer.unread == VIEWER_BACKLOG_BYTES == 4 * 1024 * 1024
    other = SlowViewer()
    viewers.add(other)  # type: ignore[arg-type]
    other.unread = 0
    viewers.offer(b"x" * (VIEWER_BACKLOG_BYTES + 1))
    assert other.unread == 0
    viewers.catch_up()
    assert other.lines[-1].startswith(b"snapshot"), "what was too long for it is in its snapshot"


async def test_a_lagging_viewer_sees_the_end_of_a_run_in_a_last_snapshot_once_it_has_read_what_came_before(slow):
    viewers, viewer = slow
    other = SlowViewer()
    viewer.unread = VIEWER_BACKLOG_BYTES
    viewers.add(other)  # type: ignore[arg-type]
    viewers.offer(b"the run has ended\n")
    await viewers.close(1.0)
    assert viewer.lines == [b"snapshot 0\n", b"drained", b"snapshot 2\n", b"drained", b"closed"]
    assert other.lines == [b"snapshot 1\n", b"the run has ended\n", b"drained", b"closed"]


async def test_on_a_real_socket_a_viewer_that_does_not_read_gets_a_fresh_snapshot_when_it_does(tmp_path: Path):
    from rankdeck.runner.supervisor.door.listening import Server
    from tests.runner.supervisor.door.test_listening import HELLO, SNAPSHOT

    viewers = Viewers(lambda: SNAPSHOT)

    async def on_rank(_) -> None: ...

    listener = Server(tmp_path / "s", viewers=viewers, on_rank=on_rank, on_command=lambda _: None, log=lambda _: None)
    await listener.start()
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"), limit=1024)
    writer.write(HELLO)
    assert await reader.readline() == SNAPSHOT
    reader._transport.pause_reading()
    line = b'{"x":"' + b"y" * 10_000 + b'"}\n'
    for _ in range(2000):
        viewers.offer(line)
        await asyncio.sleep(0)
    (viewer,) = viewers._viewers
    assert viewer.lagging
    assert viewer.backlog <= VIEWER_BACKLOG_BYTES
    reader._limit = 10**8
    reader._transport.resume_reading()
    last = b""
    while last != SNAPSHOT:
        last = await asyncio.wait_for(reader.readline(), 10)
        viewers.catch_up()
    assert not viewer.lagging
    writer.close()
    listener.close()
