"""What a process may use of its machine."""

import os
from pathlib import Path

import pytest

from rankdeck.runner.machine import processes


def test_only_the_cores_that_a_container_or_taskset_leaves_to_this_process_are_counted(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 64}, raising=False)
    assert processes.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert processes.usable_cores() == 128


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor: 0\nmodel name\t: EPYC 9V: x \nmodel name\t: other\n", "EPYC 9V: x"),
        ("flags: a\n", "CPU"),
        ("model name:\n", "CPU"),
        (None, "CPU"),
    ],
)
def test_the_name_of_the_processor_is_the_first_that_the_kernel_says(monkeypatch, text, name):
    def read_text(path, **_):
        if text is None:
            raise OSError
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    assert processes.cpu_name() == name
