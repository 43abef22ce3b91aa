"""What the guard of a terminal does once its dashboard is gone, by what it was told until then."""

import os
import pty
import subprocess
import sys

import pytest

WATCH = """
import os, sys, termios
from rankdeck.tui.terminal import guard
read_end, write_end = os.pipe()
os.write(write_end, sys.argv[1].encode())
os.close(write_end)
guard._watch(read_end, termios.tcgetattr(0), set(), "RESTORED")
"""


@pytest.mark.parametrize(("told", "restored"), [("+", True), ("+-+", True), ("+-", False), ("", False)])
def test_only_a_terminal_that_was_not_given_back_is_restored_even_if_all_was_told_at_once(told, restored):
    terminal, of_guard = pty.openpty()
    try:
        # The shell is a session of its own without a terminal, as in a container: there is no foreground to ask for.
        command = ["setsid", "--wait", "sh", "-c", 'python=$1; shift; "$python" -c "$@"; true', "sh", sys.executable]
        subprocess.run([*command, WATCH, told], stdin=of_guard, stderr=of_guard, stdout=subprocess.DEVNULL, check=True)
        os.write(of_guard, b"|")
        assert (b"RESTORED" in os.read(terminal, 1024)) == restored
    finally:
        os.close(terminal)
        os.close(of_guard)
