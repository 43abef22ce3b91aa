"""The parent of the ranks at work: it forks a rank for each order, and tells the supervisor how each ended.

Knows processes, and the pair of sockets it was given as its standard input; imports no torch. It ends, and with it
everything below it, when the supervisor is gone. The ranks do not end with it: each watches the supervisor itself.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import msgspec
import psutil

from rankdeck.runner import protocol
from rankdeck.runner.machine import processes
from rankdeck.runner.protocol import FromParent, ParentReady, RankExited, RankForked, StartRank

READ_BYTES = 65536


def take_channel() -> socket.socket:
    """The channel to the supervisor, taken from standard input, which is empty from now on."""
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return channel


def tell(channel: socket.socket, report: FromParent) -> None:
    """Send a report; a supervisor that is gone hears nothing, and `serve` sees that."""
    with contextlib.suppress(OSError):
        channel.sendall(protocol.encode_line(report))


def serve(channel: socket.socket, be_a_rank: Callable[[StartRank], object], *, named: tuple[str, str]) -> NoReturn:
    """Fork a process for each order, which calls `be_a_rank` and then ends, until the supervisor is gone.

    In each one's command line the argument that is the first of `named` becomes the second.
    """
    processes.adopt_orphans()
    processes.outlive_parent()  # if the launcher dies, the supervisor is still there; the channel tells when not
    wakes, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(wakes, select.POLLIN)
    ranks: dict[int, StartRank] = {}
    tell(channel, ParentReady(pid=os.getpid()))
    rest = b""
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if wakes.fileno() in ready:
            wakes.recv(READ_BYTES)
            _tell_ends(channel, ranks)
        if channel.fileno() in ready:
            try:
                read = channel.recv(READ_BYTES)
            except OSError:
                read = b""
            if not read:
                _end_all()
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                order = msgspec.json.decode(line, type=StartRank)
                _fork(channel, (wakes, woken), order, be_a_rank, named, ranks)


def _fork(
    channel: socket.socket,
    alarm: tuple[socket.socket, socket.socket],
    order: StartRank,
    be_a_rank: Callable[[StartRank], object],
    named: tuple[str, str],
    ranks: dict[int, StartRank],
) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        tell(channel, RankExited(rank=order.rank, attempt=order.attempt, status=1, error=f"no new process: {error}"))
        return
    if pid:
        ranks[pid] = order
        tell(channel, RankForked(rank=order.rank, attempt=order.attempt, pid=pid))
        return
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for inherited in (channel, *alarm):
            inherited.close()
        os.setsid()
        os.environ.update(order.environment)
        processes.rename(f"rank {order.rank}", *named)
        be_a_rank(order)
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        # Not an ordinary exit: nothing that the parent has registered is this process's to clean up.
        sys.stdout.flush()
        os._exit(status)


def _tell_ends(channel: socket.socket, ranks: dict[int, StartRank]) -> None:
    """Tell of the ranks that have ended; orphans of theirs, which come here, end unmentioned."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            if order := ranks.pop(pid, None):
                exit_status = os.waitstatus_to_exitcode(status)
                tell(channel, RankExited(rank=order.rank, attempt=order.attempt, status=exit_status))


def _end_all() -> NoReturn:
    """Kill every process below this one, then end."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            os.waitpid(-1, 0)
    os._exit(0)
