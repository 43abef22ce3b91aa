"""What is read from the kernel's answers: whose a socket is, what a process does, how many files may be open."""

import os
import resource
import socket
import struct
from types import SimpleNamespace

import psutil
import pytest

from rankdeck.runner.machine import kernel, processes
from rankdeck.runner.machine.kernel import MOST_DESCRIPTORS, PeerProcess, ProcessLook

ENDLESS = resource.RLIM_INFINITY


@pytest.mark.parametrize(("pid", "found"), [(7, PeerProcess(7, 1000)), (0, PeerProcess(None, 1000))])
def test_a_peer_in_another_pid_namespace_has_a_user_and_no_number(pid, found):
    connection = SimpleNamespace(getsockopt=lambda *_: struct.pack("3i", pid, 1000, 5))
    assert kernel.peer_process(connection) == found


def test_a_process_descends_from_itself_and_from_all_above_it(monkeypatch):
    above = {9: [SimpleNamespace(pid=5), SimpleNamespace(pid=3), SimpleNamespace(pid=1)]}
    monkeypatch.setattr(kernel.psutil, "Process", lambda pid: SimpleNamespace(parents=lambda: above[pid]))
    assert [kernel.descends_from(9, ancestor) for ancestor in (9, 5, 3, 1, 4)] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("status", "doing"),
    [
        (psutil.STATUS_STOPPED, "stopped"),
        (psutil.STATUS_TRACING_STOP, "stopped"),
        (psutil.STATUS_DISK_SLEEP, "waiting in the kernel"),
        (psutil.STATUS_SLEEPING, "running"),
        (psutil.STATUS_RUNNING, "running"),
    ],
)
@pytest.mark.parametrize("counted", [True, False])
def test_a_look_has_what_a_process_does_both_kinds_of_its_time_and_all_that_it_moves(
    monkeypatch, status, doing, counted
):
    class Process:
        def __init__(self, pid):
            assert pid == 7

        def oneshot(self):
            return socket.socket()  # any context manager

        def cpu_times(self):
            return SimpleNamespace(user=1.5, system=0.25)

        def status(self):
            return status

        def memory_info(self):
            return SimpleNamespace(rss=1)

        def io_counters(self):
            if not counted:
                raise AttributeError("macOS")
            return SimpleNamespace(read_bytes=10, write_bytes=100, read_chars=1000, write_chars=10000)

    monkeypatch.setattr(kernel.psutil, "Process", Process)
    assert kernel.look_at(7) == ProcessLook(doing, 1.75, 11111 if counted else 1)


def test_a_process_that_may_not_be_seen_has_no_look(monkeypatch):
    def denied(pid):
        raise psutil.AccessDenied

    monkeypatch.setattr(kernel.psutil, "Process", denied)
    assert kernel.look_at(7) is None
    assert kernel.descends_from(7, 3) is False


@pytest.mark.parametrize(("soft", "limit"), [(256, 256), (ENDLESS, MOST_DESCRIPTORS), (2**30, 2**30)])
def test_a_limit_that_there_is_not_counts_as_a_million(monkeypatch, soft, limit):
    monkeypatch.setattr(kernel.resource, "getrlimit", lambda which: (soft, ENDLESS))
    assert kernel.descriptor_limit() == limit
    assert MOST_DESCRIPTORS == 2**20


@pytest.mark.parametrize(
    ("soft", "hard", "set_to"),
    [
        (1024, 4096, [(4096, 4096)]),
        (4096, 4096, []),
        (1024, 2**30, [(MOST_DESCRIPTORS, 2**30)]),
        (1024, ENDLESS, [(MOST_DESCRIPTORS, ENDLESS)]),
        (MOST_DESCRIPTORS, ENDLESS, []),
        (2**21, ENDLESS, []),
        (ENDLESS, ENDLESS, []),
    ],
)
@pytest.mark.parametrize("refused", [None, OSError, ValueError])
def test_the_limit_is_raised_to_the_hard_one_and_never_lowered(monkeypatch, soft, hard, set_to, refused):
    asked = []

    def set_limit(which, limits):
        asked.append(limits)
        if refused is not None:
            raise refused

    monkeypatch.setattr(kernel.resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(kernel.resource, "setrlimit", set_limit)
    kernel.raise_descriptor_limit()
    assert asked == set_to


def test_it_is_the_number_of_open_files_that_is_looked_at_and_raised(monkeypatch):
    asked = []
    monkeypatch.setattr(kernel.resource, "getrlimit", lambda which: asked.append(which) or (5, 9))
    monkeypatch.setattr(kernel.resource, "setrlimit", lambda which, limits: asked.append(which))
    kernel.raise_descriptor_limit()
    kernel.descriptor_limit()
    assert asked == [resource.RLIMIT_NOFILE] * 3


def test_the_peer_of_a_socket_is_asked_of_the_kernel_where_it_tells(monkeypatch):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert kernel.peer_process(ours) == PeerProcess(os.getpid(), os.getuid())
        monkeypatch.delattr(kernel.socket, "SO_PEERCRED")
        assert kernel.peer_process(ours) is None


def test_a_process_that_vanishes_between_two_looks_has_no_look_and_no_ancestors(monkeypatch):
    class Vanishing:
        def __init__(self, pid):
            self.pid = pid

        def parents(self):
            raise ProcessLookupError

        def oneshot(self):
            raise psutil.NoSuchProcess(self.pid)

    monkeypatch.setattr(kernel.psutil, "Process", Vanishing)
    assert kernel.look_at(7) is None
    assert kernel.descends_from(7, 3) is False
    assert kernel.descends_from(7, 7) is True


@pytest.mark.parametrize("error", [psutil.AccessDenied, OSError, AttributeError])
def test_what_a_process_moves_is_zero_where_it_may_not_be_counted(monkeypatch, error):
    def denied(self):
        raise error

    monkeypatch.setattr(psutil.Process, "io_counters", denied, raising=False)
    look = kernel.look_at(os.getpid())
    assert look is not None
    assert look.moved_bytes > 0, "its memory is known"
    assert look.doing == "running"


# --- processes that end with each other ---


@pytest.fixture
def calls(monkeypatch):
    """What the kernel is asked for, by option and value; and with what status this process would have ended."""
    made: list[tuple[int, ...]] = []

    def leave(status: int) -> None:
        made.append((status,))

    library = SimpleNamespace(prctl=lambda option, value, *rest: made.append((option, int(value))))
    monkeypatch.setattr(processes.ctypes, "CDLL", lambda *_, **__: library)
    monkeypatch.setattr(processes.sys, "platform", "linux")
    monkeypatch.setattr(processes.os, "_exit", leave)
    return made


DEATH_SIGNAL, SUBREAPER, SIGTERM, SIGKILL = 1, 36, 15, 9


@pytest.mark.parametrize(("parent", "ends"), [(7, []), (8, [(1,)])])
def test_a_child_whose_parent_died_before_it_could_ask_ends_at_once(monkeypatch, calls, parent, ends):
    monkeypatch.setattr(processes.os, "getpid", lambda: 7)
    ask = processes.die_with_parent()
    monkeypatch.setattr(processes.os, "getppid", lambda: parent)
    assert calls == []
    ask()
    assert calls == [(DEATH_SIGNAL, SIGTERM), *ends]


@pytest.mark.parametrize(("parent", "ends"), [(7, []), (1, [(1,)])])
def test_a_process_that_is_to_end_with_its_parent_ends_if_that_is_gone_already(monkeypatch, calls, parent, ends):
    monkeypatch.setattr(processes.os, "getppid", lambda: parent)
    processes.end_with_parent()
    assert calls == [(DEATH_SIGNAL, SIGKILL), *ends]


def test_each_wish_is_a_call_of_its_own(calls):
    processes.outlive_parent()
    processes.adopt_orphans()
    assert calls == [(DEATH_SIGNAL, 0), (SUBREAPER, 1)]


def test_only_linux_ends_a_child_with_its_parent(monkeypatch):
    monkeypatch.setattr(processes.sys, "platform", "darwin")
    assert processes.die_with_parent() is None


def test_a_machine_that_does_not_say_how_many_cores_it_has_has_one(monkeypatch):
    monkeypatch.delattr(processes.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(processes.os, "cpu_count", lambda: None)
    assert processes.usable_cores() == 1


@pytest.mark.parametrize(
    ("events", "kills"),
    [
        ("nr_free_pages 5\noom_kill 6\npgfault 7\n", 6),
        ("oom_kill 0\n", 0),
        ("oom_kill_more 3\npgfault 7\n", None),
        ("oom_kill many\n", None),
        ("", None),
        (None, None),
    ],
)
def test_the_kernel_counts_whom_it_killed_for_lack_of_memory(tmp_path, events, kills):
    file = tmp_path / "vmstat"
    if events is not None:
        file.write_text(events)
    assert kernel.out_of_memory_kills(file) == kills
