"""The tests themselves: one without an end fails, where it is, and the others go on."""

import subprocess
import sys
from pathlib import Path

from tests import ROOT

ENDLESS = """
import asyncio, contextlib

def test_a_loop():
    while True:
        pass

async def test_a_wait():
    await asyncio.Event().wait()

def test_a_loop_that_takes_errors_for_its_own():
    while True:
        with contextlib.suppress(Exception):
            while True:
                pass

def test_another():
    assert True
"""


def test_a_test_without_an_end_fails_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "test_endless.py").write_text(ENDLESS)
    # The tests' own conftest, with less patience.
    (tmp_path / "conftest.py").write_text(
        "import tests.conftest as shared\nshared.MOST_SECONDS = 0.2\nfrom tests.conftest import an_end\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "asyncio_mode=auto",
            "--rootdir",
            str(tmp_path),
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "3 failed, 1 passed" in done.stdout, done.stdout
    assert done.stdout.count("no end after 0.2 s") >= 3
