"""Standard streams that are closed or full: a line at most, never a traceback, and the run goes on."""

import os
import subprocess
import sys

import pytest

from rankdeck.runner import protocol
from rankdeck.tui.plain.view import PlainView
from rankdeck.tui.session import watch as watching
from rankdeck.tui.terminal.inert import InertStream, OutputError
from tests import scripted
from tests.scripted_source import ScriptedSource

PROGRAM = "import sys; sys.argv[0] = 'rankdeck'; from rankdeck.tui.commands.entry import main; main()"


def rankdeck(redirected: str, command: str) -> "subprocess.CompletedProcess[str]":
    line = ["sh", "-c", f'exec "$@" {command} {redirected}', "sh", sys.executable, "-c", PROGRAM]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", ["--version", "list --json", "list", "--help"])
def test_a_full_standard_output_is_one_line_on_standard_error(command, state_home):
    if command == "list --json":
        bad = state_home / "rankdeck" / "runs" / "bad"
        bad.mkdir(parents=True)
        (bad / "run.json").write_text("")
    ended = rankdeck(">/dev/full", command)
    assert (ended.returncode, ended.stderr) == (
        3, "rankdeck: standard output cannot be written: No space left on device\n"
    )  # fmt: skip


@pytest.mark.parametrize("redirected", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_lead_nowhere(redirected, state_home):
    assert rankdeck(redirected, "run - --plain --model demo --ranks 0 </dev/null").returncode == 2
    ended = rankdeck(redirected, "--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("rankdeck") == (">&- " not in f" {redirected} ".replace("2>&-", ""))


def test_a_stream_that_has_failed_leads_nowhere_from_then_on():
    with open("/dev/full", "w") as full:
        stream = InertStream(full)
        stream.write("lost")
        with pytest.raises(OutputError, match="No space left on device"):
            stream.flush()
        stream.write("nowhere")
        stream.flush()
        assert os.fstat(full.fileno()).st_rdev == os.stat(os.devnull).st_rdev
    with open("/dev/full", "w") as full:
        talk = InertStream(full, needed=False)
        talk.write("lost")
        talk.flush()


async def test_a_run_whose_lines_cannot_be_written_goes_on_and_says_where(capsys):
    def full(_: str) -> None:
        raise OutputError("standard output cannot be written: No space left on device")

    source = ScriptedSource(scripted.running().events)
    assert await watching._follow(source, PlainView(full), steerable=True) == watching.EXIT_DIED
    said = capsys.readouterr().err
    assert "No space left on device; the run goes on; `rankdeck attach " in said
    assert not any(isinstance(command, protocol.Stop) for command in source.sent)
