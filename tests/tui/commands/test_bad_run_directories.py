"""A run directory may hold anything: it is listed as unreadable with the reason, and breaks no command."""

import json
import os
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFile, RunFileError
from rankdeck.tui.commands import cli
from rankdeck.tui.sources import runs
from rankdeck.tui.sources.client import SocketSource, SourceError

GOOD = RunFile(name="good", started_at=1e9, config=RunConfig(prompts="p", model="m"), prompts=3, status="completed")
CONTENT = protocol.framing.encode(GOOD)

BAD = {
    "no UTF-8": CONTENT.replace(b"good", b"\xff"),
    "nested": b'{"zz":' + b"[" * 200_000 + b"]" * 200_000 + b"," + CONTENT[1:],
    "date": CONTENT.replace(b'"started_at":1000000000.0', b'"started_at":1e30'),
    "counts": CONTENT.replace(b'"prompts":3', b'"prompts":999999999999999999'),
    "empty": b"",
    "a pipe": os.mkfifo,
    "a directory": Path.mkdir,
    "a loop": lambda path: path.symlink_to(path),
    "endless": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture
def bad(request, state_home) -> str:
    """One good run, and a bad one called `bad`."""
    root = run_directory.runs_directory()
    (root / "good").mkdir(parents=True)
    run_directory.write_run_file(root / "good", GOOD)
    (root / "bad").mkdir()
    made = BAD[request.param]
    if isinstance(made, bytes):
        (root / "bad" / run_directory.RUN_FILE).write_bytes(made)
    else:
        made(root / "bad" / run_directory.RUN_FILE)
    return "bad"


every_bad = pytest.mark.parametrize("bad", BAD, indirect=True)


@every_bad
def test_it_is_listed_as_unreadable_with_the_reason_after_the_runs_that_can_be_read(bad):
    head, good, listed = runs.table_lines()
    assert head.startswith("NAME")
    assert good.startswith("good ")
    assert listed.split()[:2] == ["bad", "unreadable"]
    assert len(listed.split()) > 3, "and why"
    one, other = (json.loads(line) for line in runs.json_lines())
    assert (one["name"], one["state"]) == ("good", "completed")
    assert (other["name"], other["state"]) == ("bad", "unreadable")
    assert other["problem"]


@every_bad
def test_the_start_screen_lists_it_too(bad):
    assert {run.name: run.status for run in runs.recent()} == {"good": "completed", "bad": "unreadable"}


@every_bad
@pytest.mark.parametrize(
    "command",
    ["list", "list --json", "attach", "attach bad", "stop bad", "resume bad", "report bad", "replay bad"],
)
def test_no_command_breaks(bad, command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rankdeck", *command.split()])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == (0 if command.startswith("list") else 2)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert ("bad" in captured.out) if command.startswith("list") else captured.err.startswith("rankdeck: ")


def test_a_loop_of_links_among_the_runs_is_unreadable_and_what_is_no_run_is_left_out(state_home):
    root = run_directory.runs_directory()
    root.mkdir(parents=True)
    (root / "loop").symlink_to(root / "loop")
    (root / "stranger").mkdir()
    (root / "file").touch()
    (root / "gone").symlink_to(root / "nowhere")
    assert [path.name for path, _ in run_directory.unreadable_runs()] == ["loop"]
    assert run_directory.list_runs() == []
    assert [run.name for run in runs.recent()] == ["loop"]
    assert CliRunner().invoke(cli.app, ["list"]).exit_code == 0


def test_a_live_run_is_found_beside_bad_ones_and_even_if_its_own_file_is_bad(state_home):
    root = run_directory.runs_directory()
    for name in ("bad", "live"):
        (root / name).mkdir(parents=True)
        (root / name / run_directory.RUN_FILE).write_bytes(b"\xff")
    with pytest.raises(RunFileError, match="no run is live"):
        run_directory.newest_live_run()
    descriptor = run_directory.hold_lock(root / "live")
    assert run_directory.newest_live_run() == (root / "live").resolve()
    os.close(descriptor)


def test_names_in_the_list_cannot_steer_the_terminal(state_home):
    root = run_directory.runs_directory()
    hostile = "x\x1b]52;c;QQ==\x07\u202e"
    for name in ("one", hostile):
        (root / name).mkdir(parents=True)
    run_directory.write_run_file(root / "one", RunFile(name=hostile, started_at=1, config=GOOD.config, prompts=1))
    (root / hostile / run_directory.RUN_FILE).write_bytes(b"")
    for line in runs.table_lines():
        assert not {"\x1b", "\x07", "\u202e"} & set(line)


async def test_a_journal_with_a_damaged_line_is_shown_as_far_as_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("rankdeck.tui.sources.client.CONNECT_SECONDS", 0.0)
    run_directory.write_run_file(tmp_path, GOOD)
    begun = protocol.RunStarted(at=1, name="r", directory="/r", config=GOOD.config, prompts=1)
    (tmp_path / run_directory.EVENTS_FILE).write_bytes(protocol.encode_line(begun) + b"x" * 30 + b"\n")
    events = SocketSource(tmp_path).events()
    assert await anext(events) == msgspec.structs.replace(begun, directory=str(tmp_path))
    with pytest.raises(SourceError, match=r"the rest of its journal cannot be read: .*events\.jsonl:2"):
        await anext(events)


async def test_the_log_of_a_supervisor_that_did_not_start_is_quoted_from_its_end(tmp_path, monkeypatch):
    run_directory.write_run_file(tmp_path, RunFile(name="r", started_at=1, config=GOOD.config, prompts=1))
    (tmp_path / run_directory.LOG_FILE).write_text("early\n" * 20_000 + "no such device\n")
    with pytest.raises(SourceError, match="the supervisor did not start: no such device"):
        await anext(SocketSource(tmp_path, died=lambda: True).events())
    (tmp_path / run_directory.LOG_FILE).unlink()
    os.mkfifo(tmp_path / run_directory.LOG_FILE)
    with pytest.raises(SourceError, match="has no live supervisor"):
        await anext(SocketSource(tmp_path, died=lambda: True).events())
