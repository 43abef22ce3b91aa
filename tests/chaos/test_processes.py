"""Which processes are a run's, and which part each has in it."""

import subprocess
import sys

from tests.chaos import processes
from tests.chaos.processes import Found

START_ANOTHER = """
import subprocess, sys
another = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], start_new_session=True)
print(another.pid, flush=True)
sys.stdin.read()
"""


def test_what_a_marked_process_starts_is_found_also_when_its_parent_is_gone():
    mark = "test-of-marks"
    with processes.marked(mark):
        parent = subprocess.Popen(
            [sys.executable, "-c", START_ANOTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert [process.pid for process in processes.find(mark)] == sorted([parent.pid, child])
    assert processes.find("test-of-mark") == []
    parent.kill()
    parent.wait()
    assert [process.pid for process in processes.find(mark)] == [child]
    parent.communicate()  # its end of the pipe was the child's, too
    assert processes.all_gone(mark, 10) == []


def tree(*parents: tuple[int, int]) -> list[Found]:
    return [Found(pid, parent, "S") for pid, parent in parents]


def test_ranks_are_at_the_ends_below_the_launcher_or_left_by_it():
    whole = tree((10, 1), (11, 10), (12, 11), (13, 11))
    assert [process.pid for process in processes.ranks(whole, 10)] == [12, 13]
    assert [process.pid for process in processes.launchers(whole, 10)] == [11]
    left_by_it = tree((10, 1), (12, 1), (13, 1))
    assert [process.pid for process in processes.ranks(left_by_it, 10)] == [12, 13]
    assert processes.launchers(left_by_it, 10) == []
    before_its_ranks = tree((10, 1), (11, 10))
    assert processes.ranks(before_its_ranks, 10) == []
    assert [process.pid for process in processes.launchers(before_its_ranks, 10)] == [11]
