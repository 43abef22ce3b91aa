"""`rankdeck replay` without a screen: what can be replayed, how the rest is refused, lines and events."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import encode_line
from rankdeck.tui.commands import replay as command
from rankdeck.tui.plain.view import PlainView
from rankdeck.tui.sources.journal import SAMPLE, Journal, JournalError, how_it_stops
from tests import scripted
from tests.recordings import RUNS, journal_of
from tests.runner.supervisor.test_supervisor import PROMPTS

cli = typer.Typer()
cli.command()(command.replay)


def replay(*arguments: object):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


# --- what cannot be replayed --------------------------------------------------------------------

FINE = scripted.completed().events


def changed(number: int, old: bytes, new: bytes) -> bytes:
    lines = [encode_line(event) for event in FINE]
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new, 1)
    return b"".join(lines)


DAMAGED = [
    # what is said, at which line, of which content
    ("is empty", "", b""),
    ("damaged", ":1", b'{"type":"run_sta'),
    ("newer rankdeck (protocol 3, this one knows 2): upgrade", ":1", changed(1, b'"version":2', b'"version":3')),
    (
        "newer rankdeck (protocol 3,",
        ":1",
        changed(1, b'"version":2,"name":', b'"version":3,"name":["new"],"old_name":'),
    ),
    ("unknown event 'new_model_progress'", ":5", changed(5, b'"type":"', b'"type":"new_')),
    ("evil␡", ":5", changed(5, b'"type":"', b'"type":"evil\x7f_')),
    ("model_progress is not as this version knows it", ":5", changed(5, b'"found"', b'"dreaming"')),
    ("says no type", ":7", changed(7, b'"type"', b'"tope"')),
    ("delete that line in a copy", ":9", changed(9, b"}\n", b"")),
    ("damaged, not an event", ":9", changed(9, b'"at":', b"\x00\xff")),
    ("is no time", ":9", changed(9, b'"at":1', b'"at":1' + b"0" * 30)),
    ("2,000,000,000 ranks", ":6", changed(6, b'"world_size":2', b'"world_size":2000000000')),
    ("damaged, not", ":12", changed(12, b"{", b"\n{")),
    ("begins with run_started, not log_line", ":1", b"".join(encode_line(event) for event in FINE[1:])),
]


@pytest.mark.parametrize(("said", "line", "content"), DAMAGED, ids=[said for said, _, _ in DAMAGED])
@pytest.mark.parametrize("view", ["--plain", "--json"])
def test_a_journal_that_cannot_be_replayed_is_refused_with_file_line_and_what_to_do(
    said: str, line: str, content: bytes, view: str, tmp_path: Path
) -> None:
    (tmp_path / "events.jsonl").write_bytes(content)
    result = replay(tmp_path, view)
    assert result.exit_code == 2
    assert f"{tmp_path / 'events.jsonl'}{line}: " in result.stderr
    assert said in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "rankdeck list"),
        ((), "replay --sample"),
        (("first", "--sample"), "leave out --sample or RUN"),
        (("nobody",), "there is no run called 'nobody'"),
        (("no\x00body",), "there is no run called"),
        (("--sample", "--speed", "0"), "from 0.25 to 64, not 0"),
        (("--sample", "--speed", "65"), "from 0.25 to 64, not 65"),
        (("--sample", "--speed", "nan"), "from 0.25 to 64"),
        (("--sample", "--plain", "--json"), "exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], said: str) -> None:
    result = replay(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_run_directory_without_a_journal_is_refused(launch) -> None:
    started = launch(PROMPTS[:2])
    started.process.wait(20)
    (started.directory / run_directory.EVENTS_FILE).unlink()
    result = replay(started.directory)
    assert result.exit_code == 2
    assert f"{started.directory}: has no events.jsonl" in result.stderr


@pytest.mark.parametrize("torn", [encode_line(FINE[-1])[:40], b"\x00" * 99, b'{"type":"new_'])
def test_a_last_line_that_is_half_written_is_left_out_with_a_note(torn: bytes, tmp_path: Path) -> None:
    result = replay(journal_of(tmp_path / "events.jsonl", FINE[:-1], torn), "--plain")
    assert result.exit_code == 0
    assert f"events.jsonl:{len(FINE)}: the last line is only half written" in result.stderr
    assert "the journal stops here: supervisor was lost" in result.stderr


def test_a_live_run_is_replayed_up_to_now(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "events.jsonl", scripted.running().events)
    lock = run_directory.hold_lock(tmp_path)
    try:
        journal = Journal(path)
        with path.open("ab") as file:
            file.write(encode_line(FINE[-1]))
        assert len(list(journal.events())) == len(scripted.running().events)
        assert how_it_stops(journal) == "the run goes on"
    finally:
        os.close(lock)


def test_a_run_that_was_taken_up_after_its_end_and_then_lost_is_not_closed(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "events.jsonl", FINE)
    assert (Journal(path).closed, how_it_stops(Journal(path))) == (True, "")
    again = protocol.RunTakenUp(
        at=FINE[-1].at + 9, config=scripted.config(), completed=0, failed=0, prompt_tokens=0, output_tokens=0
    )
    journal = Journal(journal_of(path, [*FINE, again]))
    assert (journal.closed, how_it_stops(journal)) == (False, "supervisor was lost")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_file_is_no_journal(make, tmp_path: Path) -> None:
    make(tmp_path / "events.jsonl")
    with pytest.raises(JournalError, match="not a file"):
        Journal(tmp_path / "events.jsonl")


def test_a_line_nested_too_deep_is_damaged(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "events.jsonl", FINE[:2], b'{"type":' + b"[" * 200_000 + b"\n" + b"\n")
    with pytest.raises(JournalError, match=r"events\.jsonl:3: damaged"):
        Journal(path)


# --- lines and events ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_plain_lines_are_those_of_the_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.time, "sleep", lambda seconds: pytest.fail("nobody asked for a speed"))
    events = RUNS[name]().events
    lines: list[str] = []
    view = PlainView(lines.append)
    for event in events:
        view.show(event)
    journal_of(tmp_path / "events.jsonl", events)
    result = replay(tmp_path)  # without a terminal, --plain is implied
    assert (result.exit_code, result.stdout) == (0, "".join(lines))


def test_json_is_the_event_stream_with_the_summary_last(tmp_path: Path) -> None:
    result = replay(journal_of(tmp_path / "copy.jsonl", FINE), "--json")
    assert result.exit_code == 0
    assert result.stdout.encode() == b"".join(encode_line(event) for event in FINE)
    assert json.loads(result.stdout.splitlines()[-1])["summary"]["completed"] == 100


def test_with_a_speed_each_line_comes_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(command.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(command.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert replay("--sample", "--plain", "--speed", "4").exit_code == 0
    assert now[0] == pytest.approx(Journal(SAMPLE).length / 4)


def test_ctrl_c_leaves_a_replay_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupted)
    assert replay("--sample", "--plain", "--speed", "1").exit_code == 0


def test_the_sample_is_a_whole_run_that_names_no_machine() -> None:
    journal = Journal(SAMPLE)
    assert (journal.notes, how_it_stops(journal)) == ([], "")
    assert 30 < journal.length < 120
    assert not any(place in SAMPLE.read_text() for place in ("/tmp/", "/root", "/work"))
    assert "100 of 100 prompts completed" in replay("--sample", "--plain").stdout


def test_a_replay_imports_no_torch_and_its_lines_no_screen() -> None:
    code = (
        "import sys\n"
        "from rankdeck.tui.commands import cli\n"
        "sys.argv = ['rankdeck', 'replay', '--sample', '--plain']\n"
        "try: cli.main()\n"
        "except SystemExit as left: assert not left.code\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'numpy', 'gguf', 'textual'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_replay_says_where_the_run_is_now_and_of_a_lone_journal_where_it_was(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "events.jsonl", FINE)
    first = FINE[0]
    assert isinstance(first, protocol.RunStarted)
    assert Journal(path).event(0) == first
    (tmp_path / run_directory.RUN_FILE).touch()
    assert Journal(path).event(0) == msgspec.structs.replace(first, directory=str(tmp_path))
