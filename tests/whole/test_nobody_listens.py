"""What the processes of a run listen on: unix sockets of their own user; for `split`, gloo's ports on the loopback."""

import ipaddress
import os
import stat
from pathlib import Path

import psutil
import pytest

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.inputs import models
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.start import Started
from tests.runner.supervisor.test_supervisor import PROMPTS, watch


def family(started: Started) -> list[psutil.Process]:
    """The supervisor and every process below it."""
    supervisor = psutil.Process(started.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def listening(processes: list[psutil.Process]) -> list[tuple[str, str]]:
    """(address, process) of every TCP or UDP socket that takes what others send."""
    return [
        (one.laddr.ip, " ".join(process.cmdline()))
        for process in processes
        for one in process.net_connections("inet")
        if one.status in (psutil.CONN_LISTEN, psutil.CONN_NONE) and one.laddr
    ]


def unix_paths(processes: list[psutil.Process]) -> set[str]:
    """The files of the unix sockets that processes listen on."""
    inodes = {
        os.readlink(path)[len("socket:[") : -1]
        for process in processes
        for path in Path(f"/proc/{process.pid}/fd").iterdir()
        if os.path.lexists(path) and os.readlink(path).startswith("socket:[")
    }
    listens = "00010000"  # the kernel's flag of a socket that accepts
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {words[7] if len(words) > 7 else "" for words in lines if words[6] in inodes and words[3] == listens}


async def look_at(started: Started) -> tuple[list[tuple[str, str]], set[str], int]:
    """What a run's processes listen on when all its ranks are ready, and how many processes there are."""
    found: list[tuple[list[tuple[str, str]], set[str], int]] = []

    async def look(message: object, _: object) -> None:
        if isinstance(message, protocol.RanksReady):
            processes = family(started)
            found.append((listening(processes), unix_paths(processes), len(processes)))

    state, _ = await watch(started, when=look)
    assert state.ended is not None
    assert state.ended.exit_status == 0
    return found[0]


def assert_private(started: Started, paths: set[str]) -> None:
    assert paths == {str(run_directory.socket_path(started.directory))}


async def test_a_run_listens_on_its_own_unix_socket_and_on_nothing_else(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    started = launch(PROMPTS, ranks=3)
    ports, paths, processes = await look_at(started)
    assert processes == 5, "the supervisor, the parent, three ranks"
    assert ports == []
    assert_private(started, paths)
    folder = run_directory.socket_path(started.directory).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", ["pull", "split"])
async def test_real_ranks_listen_on_nothing_but_gloo_s_ports_on_the_loopback_to_gather(tmp_path, dispatch):
    models.resolve("demo", lambda *_: None)
    prompts = tmp_path / "p.txt"
    prompts.write_text("".join(f"prompt number {number}\n" for number in range(8)))
    started = start.launch(
        RunConfig(prompts=str(prompts), model="demo", device="cpu", ranks=2, max_new_tokens=2, dispatch=dispatch)
    )
    try:
        ports, paths, processes = await look_at(started)
    finally:
        started.process.terminate()
        started.process.wait(30)
    assert processes == 5, "the supervisor, accelerate launch, the parent, two ranks"
    assert all(ipaddress.ip_address(address).is_loopback for address, _ in ports), ports
    assert bool(ports) == (dispatch == "split")
    assert all("rankdeck.runner.rank.worker" in process for _, process in ports)
    assert_private(started, paths)
    socket = run_directory.socket_path(started.directory)
    assert list(socket.parent.glob(f"{socket.stem}*")) == [], (
        "neither the socket nor the ranks' meeting place is left behind"
    )
