"""Processes are ended with all that came of them: even orphans, even those that will not end."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from rankdeck.runner.launching import process_tree
from rankdeck.runner.launching.process_tree import ProcessTree, exit_status_of
from rankdeck.runner.machine import processes

FAMILY = """
import subprocess, sys
sleep = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on'); time.sleep(99)"]
child = subprocess.Popen([sys.executable, "-c", "import subprocess, sys, time; p = subprocess.Popen(%r, stdout=-1);"
    "p.stdout.read(3); print(p.pid, flush=True); time.sleep(99)" % sleep], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
child.wait()
"""  # noqa: E501
"""A process, its child, and a grandchild that takes no notice of SIGTERM."""


@pytest.fixture
def family():
    started = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    pids = [started.pid, *map(int, started.stdout.readline().split())]
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    started.wait()
    started.stdout.close()


def alive(pids):
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


async def test_children_and_grandchildren_are_ended_and_killed_if_they_stay(family, monkeypatch):
    monkeypatch.setattr(process_tree, "TERMINATE_SECONDS", 0.3)
    assert alive(family) == family
    await ProcessTree(family[0], adopted=False).end()
    assert alive(family) == []


async def test_what_is_to_be_spared_is(family, monkeypatch):
    monkeypatch.setattr(process_tree, "TERMINATE_SECONDS", 0.3)
    tree = ProcessTree(family[0], adopted=False)
    await tree.end(spare={family[0]})
    assert not alive(family[1:])
    assert psutil.pid_exists(family[0])
    await tree.end()
    assert alive(family) == []


async def test_a_process_that_is_remembered_is_ended_though_its_parents_are_gone(family, monkeypatch):
    monkeypatch.setattr(process_tree, "TERMINATE_SECONDS", 0.3)
    tree = ProcessTree(family[0], adopted=False)
    tree.remember(family[2])
    os.kill(family[1], signal.SIGKILL)
    await tree.end()
    assert alive(family) == []


ADOPTS = """
import asyncio, os, signal, subprocess, sys
from rankdeck.runner.launching.process_tree import ProcessTree, exit_status_of
from rankdeck.runner.machine import processes
processes.adopt_orphans()
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
pids = [child.pid, *map(int, child.stdout.readline().split())]
os.kill(child.pid, signal.SIGKILL)
child.wait()
os.kill(pids[1], signal.SIGTERM)
status = asyncio.run(asyncio.wait_for(exit_status_of(pids[1]), 30))
asyncio.run(ProcessTree(child.pid, adopted=True).end())
print(status, os.path.exists(f"/proc/{pids[2]}"))
"""


def test_orphans_of_orphans_are_found_by_whoever_adopts_them_and_how_they_ended_is_known():
    done = subprocess.run([sys.executable, "-c", ADOPTS, FAMILY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(-signal.SIGTERM), "False"]


async def test_of_a_process_that_is_not_a_child_nobody_knows_how_it_ended():
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(exit_status_of(os.getppid()), 0.2)


async def test_an_empty_tree_has_nothing_to_end():
    async with asyncio.timeout(5):
        await ProcessTree(2**22 + 1, adopted=False).end()


def test_a_forked_process_has_its_own_name_and_argument_in_the_list_of_processes():
    code = """
import json, os, psutil
from rankdeck.runner.machine import processes
(there, told), (wait, over) = os.pipe(), os.pipe()
pid = os.fork()
if not pid:
    processes.rename("rank 7", "parent", "rank")
    os.write(told, b"x"); os.read(wait, 1); os._exit(0)
os.read(there, 1)
forked = psutil.Process(pid)
print(json.dumps([forked.name(), forked.cmdline()[3:], psutil.Process().cmdline()[3:]]))
os.write(over, b"x")
"""
    command = [sys.executable, "-c", code, "a parent", "parent", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    forked, itself = ["a parent", "rank", "", "", "x"], ["a parent", "parent", "x"]
    assert json.loads(done.stdout) == ["rank 7", forked, itself]


def test_a_process_that_no_longer_ends_with_its_parent_outlives_it():
    code = """
import os, sys
from rankdeck.runner.machine import processes
read, write = os.pipe()
if not os.fork():
    processes.end_with_parent()
    {undo}
    os.write(write, b"x")
    while os.getppid() == {parent}: pass
    print("lives", flush=True); os._exit(0)
os.read(read, 1); os._exit(0)
"""
    for undo, said in (("processes.outlive_parent()", "lives\n"), ("", "")):
        body = code.format(undo=undo, parent="parent").replace("read, write", "parent = os.getpid()\nread, write", 1)
        done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
        assert done.stdout == said


def test_only_linux_can_adopt(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(processes.ctypes, "CDLL", lambda *_, **__: pytest.fail("it has no prctl"))
    processes.adopt_orphans()
    processes.end_with_parent()
    processes.outlive_parent()
    processes.rename("rank 0", "parent", "rank")
