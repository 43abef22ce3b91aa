"""A rank's log: all that its process prints, in order; where it cannot be written, nothing but lines is lost."""

import signal
import subprocess
import sys
from pathlib import Path

PRINTING = """
import logging, os, sys, traceback, warnings
from pathlib import Path
from rankdeck.runner.rank.log import log_to
log_to(Path(sys.argv[1]))
print("from Python")
if sys.argv[1] != "/dev/full":
    os.write(1, b"from below Python\\n")
print("no end of line, ", end="")
sys.stderr.write("é and half a character: \\ud83d\\n")
assert sys.stdout.buffer.write(b"bytes\\n") == 6, "as from any file, whatever became of them"
logging.error("logged")
try:
    raise ValueError("raised")
except ValueError:
    traceback.print_exc()
sys.stdout.flush()
os._exit(5)
"""


def print_into(path: Path) -> None:
    """Runs a process that prints in every way into the log; it must live to its last line."""
    assert subprocess.run([sys.executable, "-c", PRINTING, str(path)], timeout=60).returncode == 5


def test_everything_is_in_the_log_in_the_order_it_was_printed(tmp_path: Path):
    log = tmp_path / "rank-0.log"
    log.write_text("of the launch before\n")
    print_into(log)
    lines = log.read_text().splitlines()
    assert lines[:6] == [
        "of the launch before",
        "from Python",
        "from below Python",
        "no end of line, é and half a character: \\ud83d",
        "bytes",
        "ERROR:root:logged",
    ]
    assert lines[-1] == "ValueError: raised"


def test_a_log_on_a_full_disk_stops_nobody():
    print_into(Path("/dev/full"))


def test_a_log_is_its_users_alone_and_has_the_trace_of_a_crash(tmp_path: Path):
    log = tmp_path / "rank-0.log"
    crash = "import ctypes, sys; from pathlib import Path; from rankdeck.runner.rank.log import log_to"
    crash += "; log_to(Path(sys.argv[1])); print('before'); ctypes.string_at(0)"
    assert subprocess.run([sys.executable, "-c", crash, str(log)], timeout=60).returncode == -signal.SIGSEGV
    lines = log.read_text().splitlines()
    assert lines[:2] == ["before", "Fatal Python error: Segmentation fault"]
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_opened_is_an_error_and_the_output_stays(tmp_path: Path):
    code = "import sys; from pathlib import Path; from rankdeck.runner.rank.log import log_to\n"
    code += "try: log_to(Path(sys.argv[1]))\nexcept OSError: print('still here')"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "no" / "log")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "still here\n")


def test_a_log_takes_the_place_of_both_outputs_and_leaves_nothing_else_open(tmp_path: Path):
    code = "import os, sys; from pathlib import Path; from rankdeck.runner.rank.log import log_to\n"
    code += "before = os.listdir('/proc/self/fd'); log_to(Path(sys.argv[1]))\n"
    code += "print(os.listdir('/proc/self/fd') == before, os.fstat(1).st_ino == os.fstat(2).st_ino)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "log")], timeout=60, check=True)
    assert (tmp_path / "log").read_text() == "True True\n"
