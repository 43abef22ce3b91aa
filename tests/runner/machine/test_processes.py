"""What a process may use of its machine."""

import os

from rankdeck.runner.machine import processes


def test_only_the_cores_that_a_container_or_taskset_leaves_to_this_process_are_counted(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 64}, raising=False)
    assert processes.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert processes.usable_cores() == 128
