"""Text from outside is inert in every command: hostile run directories and arguments, and the bytes that come out."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from rankdeck.runner.machine.check import Check
from rankdeck.runner.state import RunState, apply
from rankdeck.tui.commands import cli, doctor
from rankdeck.tui.plain.bar import ERASE, BottomLine
from rankdeck.tui.session import watch
from rankdeck.tui.terminal.inert import InertStream, guard_streams
from tests import hostile
from tests.hostile import FORGED, PAYLOAD, assert_inert, file_name
from tests.terminal import Terminal
from tests.tui.commands.test_cli import RANKDECK, rankdeck

ARGUMENT = PAYLOAD.replace("\x00", "")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A state directory with a hostile run in the usual place, and the run's directory."""
    home = tmp_path_factory.mktemp("hostile")
    directory = home / "rankdeck" / "runs" / file_name()
    hostile.write_hostile(directory)
    return home, str(directory)


@pytest.fixture
def run(built: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> str:
    home, directory = built
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    return directory


def asked(*arguments: str) -> bytes:
    """What a command says, without the guard around the streams: every line is harmless as it is made."""
    result = rankdeck(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.stdout_bytes + result.stderr_bytes


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("list", "--json"),
        ("attach", "RUN", "--plain"),
        ("stop", "RUN"),
        ("resume", "RUN", "--plain"),
        ("replay", "RUN", "--plain"),
        ("replay", "RUN", "--json"),
        ("report", "RUN", "--output", "OUT"),
        ("plan", "RUN", "--ranks", "1"),
        ("plan", "RUN", "--ranks", "1", "--json"),
        ("run", "RUN/prompts.txt"),
        ("serve", "RUN", "--port", "99999"),
    ],
    ids=" ".join,
)
def test_nothing_in_a_hostile_run_directory_steers_the_terminal_of_any_command(run, tmp_path, arguments):
    # Arguments must be UTF-8, as this directory's name is not: a link leads there.
    link = tmp_path / ARGUMENT[:80].replace("/", "")
    link.symlink_to(run)
    said = asked(*(word.replace("RUN", str(link)).replace("OUT", str(tmp_path / "out")) for word in arguments))
    assert said
    assert_inert(said)


@pytest.mark.parametrize(
    "arguments",
    [
        (ARGUMENT,),
        (f"--{ARGUMENT}", "list"),
        ("--theme", ARGUMENT, "list"),
        ("list", ARGUMENT),
        ("list", f"--{ARGUMENT}"),
        ("run", ARGUMENT, "--model", ARGUMENT, "--dtype", ARGUMENT, "--ranks", ARGUMENT, "--name", ARGUMENT),
        ("run", ARGUMENT, "--output", f"/nowhere/{ARGUMENT}", "--plain"),
        ("run", "p.txt", "--config", ARGUMENT),
        ("run", "p.txt", "--compare", ARGUMENT),
        ("sweep", ARGUMENT, "--batch-sizes", ARGUMENT, "--ranks", ARGUMENT),
        ("hello", "--device", ARGUMENT),
        ("plan", ARGUMENT, "--dispatch", ARGUMENT),
        ("serve", ARGUMENT, "--host", ARGUMENT),
        ("replay", ARGUMENT),
        *((command, ARGUMENT) for command in ("attach", "stop", "resume", "report")),
        ("stop", file_name()),
    ],
    ids=lambda arguments: " ".join(word[:10] for word in arguments if ARGUMENT not in word),
)
def test_no_argument_steers_the_terminal_through_the_error_that_quotes_it(run, arguments):
    said = asked(*arguments)
    assert b"rankdeck: " in said
    assert_inert(said)


def test_json_stays_the_data_that_it_was(run, tmp_path):
    (line,) = rankdeck("list", "--json").stdout.splitlines()
    listed = json.loads(line)
    assert PAYLOAD in listed["config"]["prompts"]
    assert listed["name"].startswith(PAYLOAD[:20]), "the folder's, by which commands know it"
    (tmp_path / "run").symlink_to(run)
    printed = rankdeck("replay", "--json", str(tmp_path / "run")).stdout
    events = [json.loads(line) for line in printed.splitlines()]
    assert [event for event in events if PAYLOAD in event.get("text", "")]


def test_doctor_prints_names_of_devices_as_text(monkeypatch):
    async def nothing() -> None: ...

    checks = [Check(group="gpu", name=PAYLOAD, status="warn", found=PAYLOAD, cure=PAYLOAD)]
    monkeypatch.setattr(doctor.examine, "ask_torch", nothing)
    monkeypatch.setattr(doctor.findings, "findings", lambda facts: checks)
    assert_inert(asked("doctor"))
    assert_inert(asked("doctor", "--json"))


def hostile_end() -> RunState:
    state = RunState()
    for event in hostile.hostile_events():
        state = apply(state, event)
    assert state.ended is not None
    return state


def test_the_lines_after_a_dashboard_was_left_are_inert(capsysbinary):
    state = hostile_end()
    watch._say_end(state, None)
    watch._say_end(msgspec.structs.replace(state, ended=None), None)
    watch._say_end(None, PAYLOAD)
    out, err = capsysbinary.readouterr()
    assert b"outputs: " in out
    assert b"goes on" in out
    assert_inert(out + err)


def test_no_text_on_the_bar_steers_the_terminal_and_the_bar_itself_still_does():
    stream = io.StringIO()
    bar = BottomLine(InertStream(stream))  # type: ignore[arg-type]
    bar.draw(PAYLOAD)
    bar.write_above(bar._stream, PAYLOAD.replace("\n", ""))
    bar.close()
    said = stream.getvalue()
    assert said.count(ERASE) == 3
    assert_inert(said.replace(ERASE, "").encode())


def test_what_is_printed_past_our_own_functions_is_inert_too(monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    guard_streams()
    guard_streams()
    print(PAYLOAD.replace("\n", ""))  # noqa: T201
    Console(file=sys.stdout).print(PAYLOAD.replace("\n", ""), markup=False)
    sys.excepthook(ValueError, ValueError(PAYLOAD.replace("\n", "")), None)
    assert not hasattr(sys.stdout, "buffer"), "libraries write past the guard there"
    for stream in (out, err):
        assert FORGED in stream.getvalue()
        assert_inert(stream.getvalue().encode())


def test_a_guarded_stream_has_no_other_way_to_write_to_it_than_the_one_that_is_guarded():
    stream = io.TextIOWrapper(io.BytesIO())
    ways = ("buffer", "writelines", "reconfigure", "detach")
    assert all(hasattr(stream, way) for way in ways)
    assert [way for way in ways if hasattr(InertStream(stream), way)] == []


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_the_command_itself_guards_its_streams_whatever_their_encoding(run, encoding):
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([RANKDECK, "list"], capture_output=True, env=environ, check=True)
    assert_inert(done.stdout + done.stderr)
    done = subprocess.run([RANKDECK, ARGUMENT], capture_output=True, env=environ)
    assert done.returncode == 2
    assert_inert(done.stdout + done.stderr)


def test_a_dashboard_in_a_terminal_sends_nothing_of_a_hostile_run_and_neither_do_the_lines_after_it(run, tmp_path):
    (tmp_path / "run").symlink_to(run)
    with Terminal([RANKDECK, "replay", str(tmp_path / "run"), "--speed", "64"], columns=120) as terminal:
        terminal.wait_for("Throughput", seconds=60)
        terminal.send(">")
        terminal.wait_for("failed", "completed", seconds=60)
        for view in "23451":
            terminal.send(view)
            terminal.read(0.3)
        terminal.send("q")
        assert terminal.wait() == 0
    raw = bytes(terminal.raw)
    for sign in ("\x1b]52", "\x1b[2J\x9b", "\x9b", "\x9d", "\u202e", "\u2066", "\u200f", "\u2028", "\x7f"):
        assert sign.encode() not in raw, repr(sign)
    assert b"prompts completed" in raw, "the lines after it were printed"


def test_every_command_is_among_those_that_were_fed_hostile_text():
    fed: set[str] = set()
    for test in (
        test_nothing_in_a_hostile_run_directory_steers_the_terminal_of_any_command,
        test_no_argument_steers_the_terminal_through_the_error_that_quotes_it,
    ):
        marks: Any = test.pytestmark  # type: ignore[attr-defined]
        fed |= {arguments[0] for arguments in marks[0].args[1]}
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    assert names - fed == {"demo", "doctor"}, "demo takes numbers only; doctor has its own test"
