"""A rank's connection: when the supervisor is gone the process ends, whatever has become of its own output."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.rank.link import SUPERVISOR_GONE_STATUS

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
