"""The socket under attack: whatever comes, it is refused or ignored with a log line, and the run goes on."""

import asyncio
import os
import random
import struct
from pathlib import Path

import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.supervisor.door import listening as server
from rankdeck.runner.supervisor.door import viewers as door_viewers
from rankdeck.runner.supervisor.door.listening import Server
from rankdeck.runner.supervisor.door.viewers import Viewers
from tests.runner.supervisor.test_supervisor import PROMPTS, outputs, watch

SNAPSHOT = b'{"type":"snapshot"}\n'


@pytest.fixture
async def listening(tmp_path: Path):
    """A server whose ranks, commands and log lines are kept."""
    kept: dict[str, list] = {"ranks": [], "commands": [], "log": []}

    async def on_rank(peer):
        kept["ranks"].append([message async for message in peer.messages()])

    viewers = Viewers(lambda: SNAPSHOT)
    listener = Server(
        tmp_path / "s", viewers=viewers, on_rank=on_rank, on_command=kept["commands"].append, log=kept["log"].append
    )
    await listener.start()
    yield tmp_path / "s", kept, viewers
    listener.close()


async def say(path: Path, *parts: bytes, hang_up: bool = True) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if hang_up:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()


HELLO = protocol.encode_line(protocol.ViewerHello())
RANK = protocol.encode_line(protocol.RankHello(rank=0, world_size=1, attempt=1))


async def test_random_bytes_of_every_kind_are_closed_with_a_log_line(listening):
    path, kept, _ = listening
    luck = random.Random(7)
    for _ in range(60):
        noise = luck.randbytes(luck.randint(1, 3000)) + b"\n"
        await say(path, luck.choice([b"", HELLO, RANK]) + noise)
    assert len(kept["log"]) >= 50
    assert not kept["commands"]


async def test_a_line_without_end_is_cut_off_before_it_fills_memory(listening, monkeypatch):
    path, kept, _ = listening
    block = b"x" * (1024 * 1024)
    await say(path, *([block] * (protocol.MAX_LINE_BYTES // len(block) + 2)))
    assert any("not a message" in line for line in kept["log"])


async def test_wrong_version_wrong_types_and_ranks_words_from_a_viewer(listening):
    path, kept, _ = listening
    assert b"refused" in await say(path, b'{"type":"viewer_hello","version":2000}\n')
    await say(path, b'{"type":"viewer_hello","version":"one"}\n')
    await say(path, HELLO + b'{"type":"set_batch_size","batch_size":"many"}\n')
    await say(path, HELLO + b'{"type":"output","record":{}}\n')
    await say(path, b'{"type":"stop"}\n')
    assert len(kept["log"]) == 5
    assert not kept["commands"], "a stop without a greeting, or after nonsense, is not obeyed"


async def test_a_connection_that_says_nothing_is_closed(listening, monkeypatch):
    path, kept, _ = listening
    monkeypatch.setattr(server, "GREETING_SECONDS", 0.05)
    await say(path, hang_up=False)
    await say(path, b'{"type":"viewer_h', hang_up=False)
    assert kept["log"] == ["a connection said nothing and was closed"] * 2


async def test_a_slow_client_that_says_it_byte_by_byte_is_understood(listening):
    path, kept, _ = listening
    line = HELLO + protocol.encode_line(protocol.SetBatchSize(batch_size=3))
    assert await say(path, *(bytes([byte]) for byte in line)) == SNAPSHOT
    assert kept["commands"] == [protocol.SetBatchSize(batch_size=3)]


async def test_another_user_is_refused(listening, monkeypatch):
    path, kept, _ = listening
    real = os.getuid() + 1
    monkeypatch.setattr(struct, "unpack", lambda form, data: (1, real, 1))
    assert await say(path, HELLO) == b""
    assert kept["log"] == [f"refused a connection of uid {real}"]


async def test_a_viewer_that_does_not_read_costs_bounded_memory_and_gets_a_fresh_snapshot(listening):
    path, _, viewers = listening
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1024)
    writer.write(HELLO)
    assert await reader.readline() == SNAPSHOT
    reader._transport.pause_reading()
    line = b'{"x":"' + b"y" * 10_000 + b'"}\n'
    for _ in range(2000):
        viewers.offer(line)
        await asyncio.sleep(0)
    (viewer,) = viewers._viewers
    assert viewer.lagging
    assert viewer.backlog < 2 * door_viewers.VIEWER_BACKLOG_BYTES
    reader._limit = 10**8
    reader._transport.resume_reading()
    last = b""
    while last != SNAPSHOT:
        last = await asyncio.wait_for(reader.readline(), 10)
        viewers.catch_up()
    assert not viewer.lagging
    writer.close()


async def test_a_live_run_goes_on_through_all_of_it(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")
    started = launch(PROMPTS)
    luck = random.Random(1)

    async def attack(message, _):
        if isinstance(message, protocol.BatchStarted):
            path = run_directory.socket_path(started.directory)
            for greeting in (b"", HELLO, RANK):
                await say(path, greeting + luck.randbytes(200) + b"\n")

    await watch(started, when=attack)
    assert started.process.wait(20) == 0
    assert len(outputs(started.directory)) == 25
