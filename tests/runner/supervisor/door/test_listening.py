"""The socket under attack: whatever comes, it is refused or ignored with a log line, and the run goes on."""

import asyncio
import errno
import os
import random
import struct
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import FromRank
from rankdeck.runner.supervisor.door import listening
from rankdeck.runner.supervisor.door.listening import LOGGED_A_MINUTE, MOST_STRANGERS, Server
from rankdeck.runner.supervisor.door.peers import COMMAND_BYTES, GREETING_BYTES
from rankdeck.runner.supervisor.door.viewers import MOST_VIEWERS, Viewers
from tests.runner.supervisor import absurd
from tests.runner.supervisor.test_supervisor import PROMPTS, outputs, watch

SNAPSHOT = b'{"type":"snapshot"}\n'
HELLO = protocol.encode_line(protocol.ViewerHello())
RANK = protocol.encode_line(protocol.RankHello(rank=0, world_size=1, attempt=1))


@pytest.fixture
async def door(tmp_path: Path):
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


async def test_the_socket_is_its_owners_alone_whatever_the_umask_which_stays_as_it_was(tmp_path: Path):
    async def on_rank(_) -> None: ...

    said: list = []
    listener = Server(
        tmp_path / "s", viewers=Viewers(lambda: SNAPSHOT), on_rank=on_rank, on_command=said.append, log=said.append
    )
    before = os.umask(0o002)
    try:
        await listener.start()
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        assert os.umask(0o002) == 0o002
    finally:
        os.umask(before)
        listener.close()


async def test_whoever_comes_when_another_run_is_in_this_ones_place_is_not_let_in(tmp_path: Path):
    async def on_rank(peer) -> None:
        raise AssertionError(peer)

    said: list = []
    ours = [True]
    listener = Server(
        tmp_path / "s",
        viewers=Viewers(lambda: SNAPSHOT),
        on_rank=on_rank,
        on_command=said.append,
        log=said.append,
        is_ours=lambda: ours[0],
    )
    await listener.start()
    assert await say(tmp_path / "s", HELLO)
    ours[0] = False
    for greeting in (HELLO, RANK):
        assert await say(tmp_path / "s", greeting) == b""
    assert said == []
    listener.close()
    assert not (tmp_path / "s").exists()


async def test_a_socket_that_another_supervisor_has_put_in_its_place_is_left_alone(tmp_path: Path):
    async def on_rank(_) -> None: ...

    def server() -> Server:
        return Server(tmp_path / "s", viewers=Viewers(lambda: SNAPSHOT), on_rank=on_rank, on_command=print, log=print)

    old, new = server(), server()
    await old.start()
    await new.start()
    old.close()
    assert await say(tmp_path / "s", HELLO), "the new one answers"
    new.close()
    assert not (tmp_path / "s").exists()
    new.close()


async def say(path: Path, *parts: bytes, hang_up: bool = True) -> bytes:
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except FileNotFoundError:  # the run has ended
        return b""
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


async def test_random_bytes_of_every_kind_are_closed_with_a_log_line(door):
    path, kept, _ = door
    luck = random.Random(7)
    for _ in range(60):
        noise = luck.randbytes(luck.randint(1, 3000)) + b"\n"
        await say(path, luck.choice([b"", HELLO, RANK]) + noise)
    assert len(kept["log"]) >= 50
    assert not kept["commands"]


@pytest.mark.parametrize(
    ("greeting", "most"),
    [(b"", GREETING_BYTES), (HELLO, COMMAND_BYTES), (RANK, protocol.MAX_LINE_BYTES)],
    ids=["stranger", "viewer", "rank"],
)
async def test_a_line_without_end_is_cut_off_before_it_fills_memory(door, greeting, most):
    path, kept, _ = door
    block = b"x" * (1024 * 1024)
    await say(path, greeting, *([block] * (most // len(block) + 2)))
    assert kept["log"] == [
        f"closed a connection that sent something that is not a message: a line of more than {most:,} bytes"
    ]


@pytest.mark.parametrize(
    ("greeting", "line", "most"),
    [
        (b"", b'{"type":"viewer_hello","x":"%s"}\n', GREETING_BYTES),
        (HELLO, b'{"type":"pause","x":"%s"}\n', COMMAND_BYTES),
    ],
    ids=["stranger", "viewer"],
)
async def test_a_line_too_long_is_no_message_even_if_its_end_has_come_already(door, greeting, line, most):
    path, kept, viewers = door
    await say(path, greeting + line % (b"x" * most))
    assert kept["log"] == [
        f"closed a connection that sent something that is not a message: a line of more than {most:,} bytes"
    ]
    assert (kept["commands"], len(viewers)) == ([], 0)


async def test_a_ranks_record_of_many_megabytes_arrives_whole(door):
    path, kept, _ = door
    record = protocol.OutputRecord(
        index=0, id="0", prompt="p", text="long " * 2_000_000, prompt_tokens=1, output_tokens=1, finish_reason="stop"
    )
    await say(path, RANK + protocol.encode_line(protocol.Output(record=record)))
    assert kept["ranks"] == [[protocol.Output(record=record)]]


@pytest.mark.parametrize("version", [0, protocol.PROTOCOL_VERSION - 1, protocol.PROTOCOL_VERSION + 1, -1])
@pytest.mark.parametrize(
    "hello",
    [protocol.ViewerHello(), protocol.RankHello(rank=0, world_size=1, attempt=1)],
    ids=["viewer", "rank"],
)
async def test_an_older_or_newer_protocol_is_refused_and_hears_why(door, hello, version):
    path, kept, viewers = door
    said = await say(path, protocol.encode_line(msgspec.structs.replace(hello, version=version)))
    refused = msgspec.json.decode(said, type=protocol.ToRank)
    assert refused.reason == (
        f"this run speaks protocol {protocol.PROTOCOL_VERSION}, not {version}; use the same rankdeck"
    )
    assert (kept["ranks"], len(viewers)) == ([], 0)


async def test_a_viewer_too_many_hears_why_and_one_that_leaves_makes_room(door):
    path, _, viewers = door
    inside = [await asyncio.open_unix_connection(str(path)) for _ in range(MOST_VIEWERS)]
    for reader, writer in inside:
        writer.write(HELLO)
        assert await reader.readline() == SNAPSHOT
    refused = msgspec.json.decode(await say(path, HELLO), type=protocol.Refused)
    assert refused.reason.startswith(f"{MOST_VIEWERS} viewers are connected already")
    assert len(viewers) == MOST_VIEWERS == 32
    inside[0][1].close()
    async with asyncio.timeout(10):
        while len(viewers) == MOST_VIEWERS:
            await asyncio.sleep(0)
    assert await say(path, HELLO) == SNAPSHOT
    for _, writer in inside:
        writer.close()


async def test_the_oldest_of_too_many_that_say_nothing_makes_room_for_a_rank(door):
    path, kept, _ = door
    silent = [await asyncio.open_unix_connection(str(path)) for _ in range(MOST_STRANGERS + 5)]
    await say(path, RANK)
    assert kept["ranks"] == [[]]
    closed = [await asyncio.wait_for(reader.read(), 10) for reader, _ in silent[:5]]
    assert closed == [b""] * 5
    assert not any(reader.at_eof() for reader, _ in silent[6:])
    for _, writer in silent:
        writer.close()


async def test_who_has_greeted_makes_room_for_nobody(door):
    path, kept, viewers = door
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(HELLO)
    assert await reader.readline() == SNAPSHOT
    silent = [await asyncio.open_unix_connection(str(path)) for _ in range(MOST_STRANGERS + 1)]
    await say(path, RANK)
    assert "the oldest was closed" in kept["log"][0]
    viewers.offer(b"event\n")
    assert await asyncio.wait_for(reader.readline(), 10) == b"event\n"
    for _, each in [(reader, writer), *silent]:
        each.close()


async def test_a_connection_that_cannot_be_accepted_does_not_end_the_listening(door, monkeypatch):
    path, kept, _ = door
    loop, fails = asyncio.get_running_loop(), [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]
    accept = loop.sock_accept

    async def failing(listening):
        if fails:
            raise OSError(fails.pop(0), "not now")
        return await accept(listening)

    monkeypatch.setattr(listening, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(loop, "sock_accept", failing)
    for _ in range(3):  # the first is taken by the accept that is already waiting
        assert await say(path, HELLO) == SNAPSHOT
    assert (fails, len(kept["log"])) == ([], 3)


async def test_where_descriptors_run_short_no_viewer_is_let_in_and_a_rank_still_is(door, monkeypatch):
    path, kept, viewers = door
    monkeypatch.setattr(listening, "most_for_connections", lambda: 3)
    assert b"no file descriptors left" in await say(path, HELLO)
    await say(path, RANK)
    assert (len(kept["ranks"]), len(viewers)) == (1, 0)


async def test_a_viewer_that_hangs_up_without_reading_does_not_stay(door, monkeypatch):
    path, _, viewers = door
    monkeypatch.setattr(listening, "LAST_WORDS_SECONDS", 0.01)
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1024)
    writer.write(HELLO)
    assert await reader.readline() == SNAPSHOT
    reader._transport.pause_reading()
    viewers.offer(b"x" * 3_000_000 + b"\n")
    writer.write_eof()
    async with asyncio.timeout(10):
        while len(viewers):
            await asyncio.sleep(0)
        reader._limit = 10**8
        reader._transport.resume_reading()
        assert len(await reader.read()) < 3_000_000, "it was hung up on: the rest is not kept for it"
    writer.close()


async def test_who_connects_over_and_over_does_not_fill_the_log(door):
    path, kept, _ = door
    for _ in range(LOGGED_A_MINUTE + 30):
        await say(path, b"x\n")
    assert len(kept["log"]) == LOGGED_A_MINUTE
    assert kept["log"][-1].endswith("more of these within a minute are not logged")


@pytest.mark.parametrize("number", ["1" * 30, "1" * 4300, "-" + "9" * 400])
async def test_a_command_with_an_absurd_number_drops_its_viewer(door, number):
    path, kept, _ = door
    await say(path, HELLO + b'{"type":"set_batch_size","batch_size":' + number.encode() + b"}\n")
    assert (kept["commands"], len(kept["log"])) == ([], 1)


async def test_wrong_version_wrong_types_and_ranks_words_from_a_viewer(door):
    path, kept, _ = door
    assert b"refused" in await say(path, b'{"type":"viewer_hello","version":2000}\n')
    await say(path, b'{"type":"viewer_hello","version":"one"}\n')
    await say(path, HELLO + b'{"type":"set_batch_size","batch_size":"many"}\n')
    await say(path, HELLO + b'{"type":"output","record":{}}\n')
    await say(path, b'{"type":"stop"}\n')
    assert len(kept["log"]) == 5
    assert not kept["commands"], "a stop without a greeting, or after nonsense, is not obeyed"


async def test_a_connection_that_says_nothing_is_closed(door, monkeypatch):
    path, kept, _ = door
    monkeypatch.setattr(listening, "GREETING_SECONDS", 0.05)
    await say(path, hang_up=False)
    await say(path, b'{"type":"viewer_h', hang_up=False)
    assert kept["log"] == ["a connection said nothing and was closed"] * 2


async def test_a_slow_client_that_says_it_byte_by_byte_is_understood(door):
    path, kept, _ = door
    line = HELLO + protocol.encode_line(protocol.SetBatchSize(batch_size=3))
    assert await say(path, *(bytes([byte]) for byte in line)) == SNAPSHOT
    assert kept["commands"] == [protocol.SetBatchSize(batch_size=3)]


async def test_another_user_is_refused(door, monkeypatch):
    path, kept, _ = door
    real = os.getuid() + 1
    monkeypatch.setattr(struct, "unpack", lambda form, data: (1, real, 1))
    assert await say(path, HELLO) == b""
    assert kept["log"] == [f"refused a connection of uid {real}"]


async def test_a_live_run_goes_on_through_all_of_it(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")
    started = launch(PROMPTS)
    luck = random.Random(1)

    async def attack(message, _):
        if isinstance(message, protocol.BatchStarted):
            path = run_directory.socket_path(started.directory)
            for greeting in (b"", HELLO, RANK):
                await say(path, greeting + luck.randbytes(200) + b"\n")
            absurdities = b"".join(protocol.encode_line(absurd.message(FromRank, luck)) for _ in range(100))
            await say(path, RANK + absurdities)
            commands = b"".join(
                protocol.encode_line(absurd.message(protocol.SetBatchSize | protocol.StartSweep, luck))
                for _ in range(20)
            )
            await say(path, HELLO + commands)

    state, _ = await watch(started, when=attack)
    assert started.process.wait(20) == 0
    assert len(outputs(started.directory)) == 25
    assert (state.attempt, state.ended.status, state.ended.summary.output_tokens) == (1, "completed", 100)
