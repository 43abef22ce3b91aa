"""The SSH case for real: start over `ssh localhost`, kill the connection, attach, complete."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankdeck.runner import run_directory
from tests import ROOT
from tests.terminal import Terminal

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None or shutil.which("ssh-keygen") is None, reason="no sshd on this machine"),
]


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[list[str]]:
    """The command that logs in to an sshd of our own on the loopback, with a key of our own."""
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'authorized'}\n"
        f"StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd, started by root, puts its unprivileged half
    assert SSHD is not None
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.PIPE)
    assert server.stderr is not None
    for line in server.stderr:
        if b"listening" in line:
            break
    yield [
        *("ssh", "-tt", "-p", str(port), "-i", str(folder / "user"), "-o", "StrictHostKeyChecking=no"),
        *("-o", f"UserKnownHostsFile={folder / 'known'}", "-o", "LogLevel=ERROR", f"{getpass.getuser()}@127.0.0.1"),
    ]
    server.terminate()
    server.wait(10)
    server.stderr.close()


def test_a_killed_ssh_connection_does_not_end_the_run(ssh, tmp_path, run_dir):
    prompts = tmp_path / "p.txt"
    prompts.write_text(
        "".join(f"{line}\n" for line in (ROOT / "sample_prompts/stories.txt").read_text().splitlines()[:32])
    )
    rankdeck = str(Path(sys.executable).with_name("rankdeck"))
    there = " ".join(
        f"{name}={value}" for name, value in os.environ.items() if name in ("XDG_CACHE_HOME", "XDG_STATE_HOME")
    )
    run = f"{there} {rankdeck} run {prompts} --device cpu --ranks 2 --batch-size 2 --max-new-tokens 24"
    run += f" --run-dir {run_dir}"
    with Terminal([*ssh, run], columns=80, rows=24) as terminal:
        terminal.wait_for("in flight", seconds=240)
    # Leaving the block killed the ssh client in the middle of the run.
    assert run_directory.supervisor_alive(run_dir)
    with Terminal([*ssh, f"{there} {rankdeck} attach {run_dir}"], columns=80, rows=24) as terminal:
        terminal.wait_for("completed", seconds=240)
        terminal.send("q")
        assert terminal.wait() == 0
    assert [record.index for record in run_directory.read_outputs(run_dir)] == list(range(32))
