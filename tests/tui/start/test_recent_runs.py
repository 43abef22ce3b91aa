"""The list of recent runs: read from run.json alone, without a crash, whatever is in it."""

import os
from pathlib import Path

import msgspec
import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import Summary
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.sweep.verdict import summarise_sweep
from rankdeck.tui.panels.forms.start_lines import age, no_runs_lines, run_rows
from rankdeck.tui.sources import runs
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.words.text import line_width, plain
from tests.runner.forecast.test_cost_model import point
from tests.scripted_sweep import SweepScript, plan

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
    directory = run_directory.runs_directory() / name
    directory.mkdir(parents=True)
    values = {"name": name, "started_at": NOW, "config": RunConfig(prompts="p.txt", ranks=2), "prompts": 100, **changes}
    run_directory.write_run_file(directory, RunFile(**values))  # type: ignore[arg-type]
    return directory


def corrupt(name: str, content: bytes) -> None:
    directory = run_directory.runs_directory() / name
    directory.mkdir(parents=True)
    (directory / run_directory.RUN_FILE).write_bytes(content)


def test_without_runs_the_list_is_empty() -> None:
    assert runs.recent() == []


def test_the_newest_runs_come_first_up_to_the_number_asked_for() -> None:
    for number in range(5):
        put(f"run-{number}", started_at=NOW + number, status="completed")
    assert [run.name for run in runs.recent(3)] == ["run-4", "run-3", "run-2"]


def test_a_run_is_listed_with_its_progress_and_speed() -> None:
    put("half", status="stopped", summary=SUMMARY)
    (run,) = runs.recent()
    assert (run.status, run.done, run.rate) == ("stopped", "40/100", "143 tok/s")
    assert (run.live, run.unfinished, run.ended, run.has_figures) == (False, True, True, True)


def put_sweep(name: str, script: SweepScript, **changes: object) -> RecentRun:
    """The run of a scripted sweep, as the start screen lists it."""
    state = script.ended().state
    assert state.sweep is not None
    put(name, **{"status": "completed", "config": state.config, "sweep": summarise_sweep(state.sweep), **changes})
    return next(run for run in runs.recent() if run.name == name)


EIGHTEEN = plan((1, 4, 8), (1, 2))


def test_a_sweep_that_skipped_trials_is_not_listed_as_completed() -> None:
    run = put_sweep("short", SweepScript(EIGHTEEN).begun().over(6).settled("by hand"))
    assert (run.status, run.done) == ("ended early", "6/18 trials")
    assert "■ ended early 6/18 trials" in plain(run_rows(run, 60, NOW))
    assert (run.live, run.unfinished, run.ended, run.has_figures) == (False, False, True, True), "it cannot be resumed"
    head, line = runs.table_lines()
    assert "  ended early  6/18 trials  " in line
    assert line.index("6/18") == head.index("PROMPTS")
    assert [msgspec.json.decode(line)["state"] for line in runs.json_lines()] == ["ended early"]


def test_a_sweep_ended_before_its_first_trial_was_over_ended_early() -> None:
    assert put_sweep("none", SweepScript(EIGHTEEN).begun().settled("by hand")).status == "ended early"


def test_trials_that_would_not_fit_in_memory_do_not_count_as_skipped() -> None:
    run = put_sweep("wall", SweepScript(EIGHTEEN, fits=4).begun().over(18).settled())
    assert (run.status, run.done) == ("completed", "12/18 trials")


def test_a_stopped_sweep_is_listed_as_stopped() -> None:
    assert put_sweep("stopped", SweepScript(EIGHTEEN).begun().over(6), status="stopped").status == "stopped"


def test_a_sweep_stored_without_records_keeps_its_status() -> None:
    script = SweepScript(EIGHTEEN).begun().over(18).settled()
    assert script.state.sweep is not None
    old = msgspec.structs.replace(summarise_sweep(script.state.sweep), records=[])
    assert put_sweep("old", script, sweep=old).status == "completed"


def test_a_run_without_a_supervisor_is_lost_and_with_one_it_is_live() -> None:
    directory = put("here")
    assert runs.recent()[0].status == "lost"
    descriptor = run_directory.hold_lock(directory)
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


def test_entries_that_are_not_runs_are_left_out(tmp_path: Path) -> None:
    put("fine")
    root = run_directory.runs_directory()
    (root / "empty").mkdir()
    (root / "a-file").write_text("")
    (root / "broken").symlink_to(tmp_path / "nowhere")
    assert [run.name for run in runs.recent()] == ["fine"]


def test_odd_values_are_shown_and_do_not_break_a_line() -> None:
    odd = msgspec.structs.replace(SUMMARY, tokens_per_second=1e300, completed=-1)
    put("far", started_at=-1e300, status="completed", summary=odd, config=RunConfig(prompts="", model="/", ranks=-3))
    (run,) = runs.recent()
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


def test_an_empty_list_says_what_it_will_show() -> None:
    assert "press enter to launch" in plain(no_runs_lines(60)).lower()


def test_batch_costs_come_from_earlier_runs_that_generated_in_the_same_way() -> None:
    config = RunConfig(prompts="p.txt", ranks=2, device="cpu")
    put("a", config=config, costs=[point(4, ranks=1)])
    put("b", config=msgspec.structs.replace(config, batch_size=8), costs=[point(8, ranks=2)])
    put("c", config=msgspec.structs.replace(config, dtype="bfloat16"), costs=[point(64, ranks=4)])
    corrupt("d", b"no run")
    found = runs.costs_like(RunConfig(prompts="q.txt"), "cpu")
    assert found is not None
    assert found.measured_ranks == [1, 2]
    assert found.measured_rows == (4, 8)
    assert runs.costs_like(RunConfig(prompts="q.txt"), "cuda") is None
