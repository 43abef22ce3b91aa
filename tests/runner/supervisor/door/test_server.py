"""The socket's own life: in place of an old file, gone and back, closed; whose processes may come; what is logged."""

import asyncio
import errno
import os
import stat
from pathlib import Path

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.machine.kernel import PeerProcess
from rankdeck.runner.supervisor.door import listening
from rankdeck.runner.supervisor.door.listening import (
    LOGGED_A_MINUTE,
    MOST_STRANGERS,
    RESERVED_DESCRIPTORS,
    Server,
    command_of,
    most_for_connections,
)
from rankdeck.runner.supervisor.door.peers import NoMessageError
from rankdeck.runner.supervisor.door.viewers import Viewers
from rankdeck.runner.supervisor.talk.claims import MOST
from tests.runner.supervisor.door.test_listening import HELLO, RANK, SNAPSHOT, say


class Door:
    def __init__(self, path: Path) -> None:
        self.path, self.log, self.ranks, self.commands = path, [], [], []
        self.viewers = Viewers(lambda: SNAPSHOT)
        self.server = Server(
            path, viewers=self.viewers, on_rank=self.rank, on_command=self.commands.append, log=self.log.append
        )

    async def rank(self, peer) -> None:
        self.ranks.append(peer)
        async for _ in peer.messages():
            pass


@pytest.fixture
async def door(tmp_path: Path):
    door = Door(tmp_path / "sockets" / "s")
    door.path.parent.mkdir(mode=0o700)
    yield door
    door.server.close()


async def test_it_listens_in_place_of_what_a_killed_supervisor_left_and_takes_its_file_with_it(door):
    door.path.write_text("left")
    await door.server.start()
    assert stat.S_ISSOCK(door.path.stat().st_mode)
    assert await say(door.path, HELLO) == SNAPSHOT
    door.server.close()
    assert not door.path.exists()
    door.server.close()
    assert door.log == []


async def test_a_socket_that_cannot_be_made_again_is_said_once_and_tried_on(door):
    await door.server.start()
    folder = door.path.parent
    door.path.unlink()
    folder.rmdir()
    folder.symlink_to("/")  # somebody else's
    before = door.server._listening
    for _ in range(3):
        await door.server.restore()
    said = "must be a directory of your own with mode 0700; remove what is there"
    assert door.log == [f"nobody new can watch or stop this run: {folder} {said}"]
    assert door.path.name not in os.listdir("/")
    assert before.fileno() >= 0, "those who wait at the old one are not hung up on"
    folder.unlink()
    await door.server.restore()
    assert door.log[1:] == [f"the socket was gone; listening again at {door.path}"]
    assert await say(door.path, HELLO) == SNAPSHOT


async def test_a_socket_file_that_cannot_be_removed_at_the_end_does_no_harm(door, monkeypatch):
    await door.server.start()

    def read_only(path, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", read_only)
        door.server.close()
    assert door.server._listening is None


async def test_a_socket_that_was_cleaned_away_is_there_again_and_who_is_connected_stays(door):
    await door.server.start()
    reader, writer = await asyncio.open_unix_connection(str(door.path))
    writer.write(HELLO)
    assert await reader.readline() == SNAPSHOT
    await door.server.restore()
    assert door.log == [], "it is there"
    before = door.server._listening
    door.path.unlink()
    door.path.parent.rmdir()
    await door.server.restore()
    assert door.log == [f"the socket was gone; listening again at {door.path}"]
    assert before.fileno() == -1, "the old one is closed"
    assert door.path.parent.stat().st_mode & 0o777 == 0o700
    assert door.path.stat().st_mode & 0o777 == 0o600
    assert await say(door.path, HELLO) == SNAPSHOT
    door.viewers.offer(b"event\n")
    assert await asyncio.wait_for(reader.readline(), 10) == b"event\n"
    writer.close()


async def test_where_it_cannot_listen_no_descriptor_is_left_and_the_umask_is_as_it_was(door, monkeypatch):
    opened = []
    make = listening.socket.socket

    def kept(*arguments):
        opened.append(make(*arguments))
        return opened[-1]

    monkeypatch.setattr(listening.socket, "socket", kept)
    before = os.umask(0o027)
    try:
        with pytest.raises(FileNotFoundError):
            await Door(door.path.parent / "no folder" / "s").server.start()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert [one.fileno() for one in opened] == [-1]


@pytest.mark.parametrize(
    ("process", "comes"),
    [
        (PeerProcess(pid=7, uid=os.getuid()), True),
        (PeerProcess(pid=7, uid=0), True),
        (PeerProcess(pid=7, uid=os.getuid() + 1), False),
        (None, True),
    ],
)
async def test_this_user_and_root_may_come_and_where_nobody_knows_everybody(door, monkeypatch, process, comes):
    monkeypatch.setattr(listening, "peer_process", lambda connection: process)
    await door.server.start()
    said = await say(door.path, RANK)
    assert said == b""
    assert len(door.ranks) == comes
    if comes:
        assert (door.ranks[0].process, door.log) == (process, [])
        assert door.ranks[0].hello == protocol.RankHello(rank=0, world_size=1, attempt=1)
    else:
        assert door.log == [f"refused a connection of uid {process.uid}"]


async def test_who_comes_and_goes_without_a_word_is_not_worth_a_line(door):
    await door.server.start()
    assert await say(door.path) == b""
    assert (door.log, door.server._strangers) == ([], {})


async def test_lines_of_connections_are_limited_within_any_minute_and_told_so_once(door, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    for number in range(LOGGED_A_MINUTE + 5):
        door.server._say(str(number))
    more = "; more of these within a minute are not logged"
    assert LOGGED_A_MINUTE == 60
    assert door.log == [*map(str, range(59)), f"59{more}"]
    now[0] = 1059.9
    door.server._say("too early")
    now[0] = 1060.0
    for number in range(65):
        door.server._say(f"again {number}")
    assert door.log[60:] == [*(f"again {number}" for number in range(59)), f"again 59{more}"]
    now[0] = 2000.0
    door.server._say("much later")
    assert door.log[120:] == ["much later"]


async def test_the_limit_tells_of_every_minute_that_slides_along(door, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    for second in range(180):
        now[0] = float(second)
        door.server._say("one a second is not too many")
    assert len(door.log) == 180


@pytest.mark.parametrize(("limit", "first"), [(1024, 896), (512, 384), (511, 384), (256, 192), (100, 75), (8, 6)])
def test_a_part_of_the_descriptors_is_kept_for_the_run_itself(monkeypatch, limit, first):
    monkeypatch.setattr(listening, "descriptor_limit", lambda: limit)
    assert most_for_connections() == first
    assert RESERVED_DESCRIPTORS == 128


def test_a_number_is_a_command_as_long_as_it_is_not_absurd():
    for size in (-MOST, 0, MOST):
        command = protocol.SetBatchSize(batch_size=size)
        assert command_of(protocol.encode_line(command)) == command
    for size in (-MOST - 1, MOST + 1):
        with pytest.raises(NoMessageError, match="batch_size is out of range"):
            command_of(protocol.encode_line(protocol.SetBatchSize(batch_size=size)))


async def test_commands_are_heard_in_their_order_and_a_viewer_that_left_is_forgotten(door):
    await door.server.start()
    asked = [protocol.Pause(), protocol.SetActiveRanks(active_ranks=1), protocol.Resume()]
    assert await say(door.path, HELLO, *map(protocol.encode_line, asked)) == SNAPSHOT
    assert door.commands == asked
    assert len(door.viewers) == 0


async def test_as_many_strangers_as_may_wait_are_left_alone(door):
    await door.server.start()
    silent = [await asyncio.open_unix_connection(str(door.path)) for _ in range(MOST_STRANGERS)]
    async with asyncio.timeout(10):
        while len(door.server._strangers) < MOST_STRANGERS:
            await asyncio.sleep(0)
    assert door.log == []
    assert not any(reader.at_eof() for reader, _ in silent)
    extra, _ = await asyncio.open_unix_connection(str(door.path))
    async with asyncio.timeout(10):
        assert await silent[0][0].read() == b"", "the oldest"
    assert door.log == ["too many silent connections; the oldest was closed"]
    assert not extra.at_eof()
    for _, writer in silent:
        writer.close()
