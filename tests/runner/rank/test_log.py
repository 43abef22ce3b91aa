"""A rank's log: all that its process prints, in order; where it cannot be written, nothing but lines is lost."""

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
sys.stdout.buffer.write(b"bytes\\n")
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
