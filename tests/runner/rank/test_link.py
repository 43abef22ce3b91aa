"""A rank's connection: when the supervisor is gone the process ends, whatever has become of its own output."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.rank.link import SUPERVISOR_GONE_STATUS

MEETS_OTHERS = """
import sys
from rankdeck.runner.protocol import LogLine
from rankdeck.runner.rank.link import Link

link = Link(sys.argv[1])
link.send(LogLine(source="rank 0", text="x" * 300_000))
link.meet(0, "memory taken")
link.meet(0, "memory seen")
link.close()
"""
SENDS_BOTH_AT_ONCE = """
import sys
from rankdeck.runner.protocol import LogLine, StepsInFlight
from rankdeck.runner.rank.link import Link

link = Link(sys.argv[1])
def step(number): link.progress(StepsInFlight(rank=0, batch=1, step=number, output_tokens=number))
def say(text): link.send(LogLine(source="rank 0", text=text))
for deeds in ([(step, 1), (say, "newer")], [(say, "older"), (step, 2), (step, 3)]):
    with link._ready:  # the sender comes to nothing before all of it is there
        for deed, about in deeds:
            deed(about)
    link.meet(0, "memory taken")
link.close()
"""
SAYS_MUCH_AND_LEAVES = """
import os, sys
from rankdeck.runner.protocol import LogLine, RankFailed
from rankdeck.runner.rank.link import Link

link = Link(sys.argv[1])
link.send(LogLine(source="rank 0", text="x" * 8_000_000))
link.send(RankFailed(rank=0, error="the last word", traceback=""))
link.close()
os._exit(1)
"""
SAYS_WHAT_IS_CANCELLED = """
import os, sys
from rankdeck.runner.rank.link import Link

link = Link(sys.argv[1])
link.next_order()
print([batch for batch in (2, 3, 4) if link.cancelled(batch)], flush=True)
link.close()
"""
WAIT_FOR_ORDERS = "import sys; from rankdeck.runner.rank.link import Link; Link(sys.argv[1]).next_order()"


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("last", [b"", b"no message\n", protocol.encode_line(protocol.Refused(reason="too late"))])
@pytest.mark.parametrize("output", [full_disk, closed_pipe])
def test_a_rank_without_a_supervisor_ends_though_nobody_takes_its_last_words(tmp_path: Path, output, last):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        handle = output()
        rank = subprocess.Popen([sys.executable, "-c", WAIT_FOR_ORDERS, str(path)], stderr=handle)
        os.close(handle)
        try:
            supervisor, _ = server.accept()
            supervisor.sendall(last)
            supervisor.close()
            assert rank.wait(5) == SUPERVISOR_GONE_STATUS
        finally:
            rank.kill()


def test_a_rank_waits_at_each_meeting_point_until_it_is_told_of_that_one(tmp_path: Path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        rank = subprocess.Popen([sys.executable, "-c", MEETS_OTHERS, str(path)])
        supervisor, _ = server.accept()
        with supervisor, supervisor.makefile("rb") as lines:
            try:
                long = lines.readline()
                assert len(long) > 300_000, "far more than a socket takes at once"
                for point in ("memory taken", "memory seen"):
                    assert protocol.encode_line(protocol.Arrived(rank=0, at=point)) == lines.readline()
                    other = "limits" if point == "memory taken" else "memory taken"
                    supervisor.sendall(protocol.encode_line(protocol.GoOn(at=other)))
                    assert rank.poll() is None
                    supervisor.sendall(protocol.encode_line(protocol.GoOn(at=point)))
                assert lines.readline() == b""
                assert rank.wait(30) == 0
            finally:
                rank.kill()


def test_progress_that_is_older_than_a_message_is_dropped_and_the_newest_follows_it(tmp_path: Path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        rank = subprocess.Popen([sys.executable, "-c", SENDS_BOTH_AT_ONCE, str(path)])
        supervisor, _ = server.accept()
        said: list[object] = []
        with supervisor, supervisor.makefile("rb") as lines:
            try:
                for line in lines:
                    message = msgspec.json.decode(line, type=protocol.FromRank)
                    if isinstance(message, protocol.Arrived):
                        supervisor.sendall(protocol.encode_line(protocol.GoOn(at=message.at)))
                    else:
                        said.append(message.steps.step if isinstance(message, protocol.Steps) else message.text)
                assert rank.wait(30) == 0
            finally:
                rank.kill()
    assert said[:2] == ["newer", "older"]
    assert said[2:] in ([], [3]), "of progress only the newest, unless the meeting overtook it"


def test_a_rank_that_leaves_has_sent_its_last_word(tmp_path: Path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        rank = subprocess.Popen([sys.executable, "-c", SAYS_MUCH_AND_LEAVES, str(path)])
        supervisor, _ = server.accept()
        with supervisor, supervisor.makefile("rb") as lines:
            try:
                last = lines.readlines()[-1]
                assert rank.wait(30) == 1
            finally:
                rank.kill()
    assert msgspec.json.decode(last, type=protocol.FromRank).error == "the last word"


def test_a_batch_and_those_before_it_are_cancelled_and_none_that_comes_after(tmp_path: Path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        rank = subprocess.Popen(
            [sys.executable, "-c", SAYS_WHAT_IS_CANCELLED, str(path)], stdout=subprocess.PIPE, text=True
        )
        supervisor, _ = server.accept()
        with supervisor:
            supervisor.sendall(protocol.encode_line(protocol.Cancel(batch=3)) + protocol.encode_line(protocol.Leave()))
            assert rank.communicate(timeout=30)[0] == "[2, 3]\n"
