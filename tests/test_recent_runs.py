"""The list of recent runs: from run.json alone, and never a crash, whatever stands there."""

import os
from pathlib import Path

import msgspec
import pytest

from runner import rundir
from runner.config import RunConfig
from runner.protocol import Summary
from runner.rundir import RunFile
from tui import runs
from tui.runs import RecentRun
from tui.start_lines import age, no_runs_lines, run_rows
from tui.text import line_width, plain

NOW = 2_000_000_000.0
SUMMARY = Summary(
    prompts=100,
    completed=40,
    failed=0,
    prompt_tokens=1,
    output_tokens=500,
    seconds=4.0,
    tokens_per_second=143.2,
    padding_waste=0.0,
    length="natural length",
    ranks=[],
)


def put(name: str, **changes: object) -> Path:
    directory = rundir.runs_directory() / name
    directory.mkdir(parents=True)
    values = {"name": name, "started_at": NOW, "config": RunConfig(prompts="p.txt", ranks=2), "prompts": 100, **changes}
    rundir.write_run_file(directory, RunFile(**values))  # type: ignore[arg-type]
    return directory


def corrupt(name: str, content: bytes) -> None:
    directory = rundir.runs_directory() / name
    directory.mkdir(parents=True)
    (directory / rundir.RUN_FILE).write_bytes(content)


def test_no_runs_are_no_runs() -> None:
    assert runs.recent() == []


def test_the_newest_come_first_and_no_more_than_asked_for() -> None:
    for number in range(5):
        put(f"run-{number}", started_at=NOW + number, status="completed")
    assert [run.name for run in runs.recent(3)] == ["run-4", "run-3", "run-2"]


def test_a_run_is_listed_with_how_far_it_came_and_how_fast() -> None:
    put("half", status="stopped", summary=SUMMARY)
    (run,) = runs.recent()
    assert (run.status, run.done, run.rate) == ("stopped", "40/100", "143 tok/s")
    assert (run.live, run.unfinished, run.ended, run.has_figures) == (False, True, True, True)


def test_a_run_without_a_supervisor_is_lost_and_one_with_it_is_live() -> None:
    directory = put("here")
    assert runs.recent()[0].status == "lost"
    descriptor = rundir.hold_lock(directory)
    try:
        (run,) = runs.recent()
        assert (run.status, run.live, run.ended, run.done) == ("running", True, False, "100 prompts")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"name": 5}',
        b"\xff\xfe\x00",
        b'{"name":"x","started_at":"soon","config":{},"prompts":1}',
        b"[" * 200_000,
        b'{"name":"x","started_at":1e999,"config":{"prompts":"p"},"prompts":1}',
    ],
)
def test_a_run_file_that_cannot_be_read_is_listed_as_such(content: bytes) -> None:
    corrupt("odd", content)
    (run,) = runs.recent()
    assert (run.name, run.status, run.config) == ("odd", "unreadable", None)
    assert run.problem
    assert plain(run_rows(run, 60, NOW)).count("unreadable") == 1


def test_what_is_no_run_is_left_out(tmp_path: Path) -> None:
    put("fine")
    root = rundir.runs_directory()
    (root / "empty").mkdir()
    (root / "a-file").write_text("")
    (root / "broken").symlink_to(tmp_path / "nowhere")
    (root / "loop").symlink_to(root / "loop")
    assert [run.name for run in runs.recent()] == ["fine"]


def test_odd_values_are_shown_and_do_not_break_a_line() -> None:
    odd = msgspec.structs.replace(SUMMARY, tokens_per_second=1e300, completed=-1)
    put("far", started_at=-1e300, status="completed", summary=odd, config=RunConfig(prompts="", model="/", ranks=-3))
    for run in runs.recent():
        for width in (20, 29, 44, 80):
            assert all(line_width(line) <= width for line in run_rows(run, width, NOW))


@pytest.mark.parametrize("name", ["\x1b]0;x\x07", "[red]x[/]", "a\nb", "\u202eabc", "x" * 500])
def test_names_and_models_are_data(name: str) -> None:
    run = RecentRun(Path("/r"), name, "failed", NOW, "1/2", "3 tok/s", RunConfig(prompts="p", model=name), name)
    for width in (29, 44, 90):
        rows = run_rows(run, width, NOW, here=True)
        assert all("\x1b" not in text and text.isprintable() for row in rows for text, _ in row)
        assert all(line_width(row) <= width for row in rows)


def test_ages_are_in_words() -> None:
    seconds = [-100, 3, 42, 120, 7200, 90_000, 400_000, 1e300]
    assert [age(number) for number in seconds] == [
        "just now",
        "just now",
        "42 s ago",
        "2 min ago",
        "2 h ago",
        "25 h ago",
        "5 d ago",
        "9999 d ago",
    ]


def test_an_empty_list_says_what_will_come() -> None:
    assert "press enter to launch" in plain(no_runs_lines(60)).lower()
