"""The program's first steps: what becomes of Ctrl-C while the rest is imported, and after."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rankdeck.tui.commands import cli, entry


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_a_program_that_was_told_to_ignore_ctrl_c_ignores_it_and_any_other_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, handler: object
) -> None:
    """A shell has a script's background commands ignore it: Ctrl-C is for the one in front."""
    found: list[object] = []
    monkeypatch.setattr(cli, "main", lambda: found.append(signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, handler)  # type: ignore[arg-type]
    entry.main()
    assert found == [handler]


LOOK = """
import os, sys
from rankdeck.tui.commands.entry import open_closed_streams
open_closed_streams()
null = os.stat(os.devnull).st_rdev
found = [os.get_inheritable(number) and os.fstat(number).st_rdev == null for number in (0, 2)]
print(found, sys.stdin.read() == "", sys.stderr.write("gone"), os.get_inheritable(1), os.fstat(1).st_rdev == null)
"""


def test_streams_that_were_closed_lead_nowhere_for_the_ranks_too_and_others_stay_as_they_are() -> None:
    shell = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", LOOK]
    said = subprocess.run(shell, stdout=subprocess.PIPE, text=True, env=os.environ, check=True).stdout
    assert said == "[True, True] True 4 True False\n"
