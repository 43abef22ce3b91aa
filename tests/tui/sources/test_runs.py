"""The list of runs: its columns, its JSON, and which of a run's figures each shows."""

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.sources import runs
from rankdeck.tui.sources.runs import COLUMNS, RecentRun, Setting
from tests.runner.forecast.test_cost_model import point
from tests.scripted_sweep import SweepScript
from tests.tui.start.test_recent_runs import EIGHTEEN, NOW, SUMMARY, corrupt, put, put_sweep


def cells(line: str) -> list[str]:
    found, at = [], 0
    for _, width in COLUMNS:
        found.append(line[at : at + width].strip())
        at += width + 2
    return found


def test_each_run_is_a_row_of_the_table_under_its_headings() -> None:
    put("done", status="completed", summary=SUMMARY, config=RunConfig(prompts="p", ranks=3, model="org/model"))
    put("begun", prompts=1200, started_at=NOW - 1, status="stopped")
    corrupt("zz-bad", b"{")
    heads, *rows, bad = runs.table_lines()
    assert cells(heads) == [title for title, _ in COLUMNS]
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW))
    assert [cells(row) for row in rows] == [
        ["done", "completed", "40/100", "143.2", "3", started, "org/model"],
        ["begun", "stopped", "1,200", "-", "2", cells(rows[1])[5], "demo"],
    ]
    assert bad.startswith(f"{'zz-bad':34}  unreadable  ")
    assert str(run_directory.runs_directory()) not in bad, "the row begins with its name"
    assert not any(line != line.rstrip() for line in (heads, *rows, bad))


def test_long_cells_are_cut_and_what_steers_is_visible() -> None:
    put("n" * 99, status="completed", config=RunConfig(prompts="p", model="a\x1b" + "m" * 99))
    row = list(runs.table_lines())[1]
    name, *_, model = cells(row)
    assert len(name) == 34
    assert len(model) == 30
    assert "\x1b" not in row


def test_each_run_is_a_json_object_with_its_directory_and_state() -> None:
    directory = put("lost")
    corrupt("bad\x1b", b"{")
    good, bad = map(json.loads, runs.json_lines())
    assert (good["directory"], good["state"], good["status"], good["name"]) == (
        str(directory),
        "lost",
        "running",
        "lost",
    )
    assert bad.keys() == {"directory", "state", "name", "problem"}
    assert (bad["state"], bad["name"]) == ("unreadable", "bad␛")
    assert bad["problem"]


def test_a_sweep_is_listed_with_its_trials_and_its_best_setting() -> None:
    run = put_sweep("swept", SweepScript(EIGHTEEN).begun().over(18).settled())
    assert run.chosen is not None
    assert run.chosen == Setting(run.chosen.active_ranks, run.chosen.batch_size)
    stored = run_directory.read_run_file(run.directory).sweep
    assert stored is not None
    assert stored.best is not None
    assert stored.chosen is not None
    assert stored.best.tokens_per_second is not None
    assert (run.chosen.active_ranks, run.chosen.batch_size) == stored.chosen.setting
    assert run.rate == f"{stored.best.tokens_per_second.mean:,.0f} tok/s"
    _, row = runs.table_lines()
    assert cells(row)[2:4] == ["18/18 trials", f"{stored.best.tokens_per_second.mean:,.1f}"]
    assert run.done == "18/18 trials"


def test_a_sweep_with_one_trial_left_ended_early() -> None:
    assert put_sweep("short", SweepScript(EIGHTEEN).begun().over(17).settled("by hand")).status == "ended early"
    assert put_sweep("whole", SweepScript(EIGHTEEN).begun().over(18).settled()).status == "completed"


def test_a_sweep_without_figures_is_named_as_one() -> None:
    put("early", status="failed", config=RunConfig(prompts="p", sweep=EIGHTEEN), cause="no memory")
    (run,) = runs.recent()
    assert (run.done, run.rate, run.chosen, run.has_figures) == ("100 prompts", "", None, False)
    assert run.problem == "no memory"
    assert cells(list(runs.table_lines())[1])[2:4] == ["sweep", "-"]


def test_a_run_without_an_output_token_has_no_rate() -> None:
    put("none", status="failed", summary=msgspec.structs.replace(SUMMARY, output_tokens=0))
    (run,) = runs.recent()
    assert (run.rate, run.has_figures) == ("", True)


@pytest.mark.parametrize(
    ("status", "live", "unfinished", "ended"),
    [
        ("running", True, False, False),
        ("completed", False, False, True),
        ("ended early", False, False, True),
        ("stopped", False, True, True),
        ("failed", False, True, True),
        ("lost", False, True, True),
        ("unreadable", False, False, False),
    ],
)
def test_what_can_be_done_with_a_run_is_by_its_status(status: str, live: bool, unfinished: bool, ended: bool) -> None:
    run = RecentRun(Path("/r"), "r", status, NOW)
    assert (run.live, run.unfinished, run.ended) == (live, unfinished, ended)


def touched(directory: Path, at: float) -> None:
    os.utime(directory / run_directory.RUN_FILE, (at, at))


def test_a_run_that_began_earlier_and_ended_later_is_still_listed_by_its_beginning() -> None:
    for number in range(6):
        touched(put(f"run-{number}", started_at=NOW + number, status="completed"), NOW - number)
    assert [run.name for run in runs.recent(3)] == ["run-5", "run-4", "run-3"]
    assert [run.name for run in runs.recent(1)] == ["run-1"], "of twice as many as are listed, by their files"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"}, {"dtype": "bfloat16"}, {"engine": "static"}, {"quantization": "int8"},
        {"decoding": "generate"}, {"attention": "eager"}, {"chat": True}, {"ranks_per_gpu": 2}, {"gpus_per_rank": 2},
        {"do_sample": True}, {"device": "cuda"},
    ],
)  # fmt: skip
def test_runs_that_differ_in_what_a_batch_costs_say_nothing_about_this_one(changes: dict[str, Any]) -> None:
    put("a", config=RunConfig(**{"prompts": "p.txt", "device": "cpu", **changes}), costs=[point(4, ranks=1)])
    assert runs.costs_like(RunConfig(prompts="q.txt"), "cpu") is None


def test_settings_that_change_no_cost_do_not_matter_and_auto_means_this_machines_device() -> None:
    put("a", config=RunConfig(prompts="p", device="auto", limit=3, order="input", seed=4), costs=[point(4, ranks=1)])
    for device in ("cpu", "cuda"):
        assert runs.costs_like(RunConfig(prompts="q.txt", device=device), device) is not None  # type: ignore[arg-type]
    assert runs.costs_like(RunConfig(prompts="q.txt", device="cuda"), "cpu") is None


def test_bytes_of_a_path_that_are_no_utf_8_are_written_as_their_codes() -> None:
    os.rename(put("cafe"), run_directory.runs_directory() / os.fsdecode(b"caf\xe9"))
    (line,) = runs.json_lines()
    assert json.loads(line)["directory"].endswith(r"/caf\udce9")


def test_no_more_runs_are_looked_at_than_are_listed_and_costs_come_from_the_newest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert runs.NEWEST == 20
    for number in range(45):
        touched(put(f"run-{number:02}", started_at=NOW + number, status="completed"), NOW + number)
    read: list[str] = []
    real = run_directory.read_run_file
    monkeypatch.setattr(run_directory, "read_run_file", lambda path: read.append(path.name) or real(path))
    assert [run.name for run in runs.recent()] == [f"run-{number:02}" for number in range(44, 24, -1)]
    assert len(read) == 40
    read.clear()
    assert runs.costs_like(RunConfig(prompts="q"), "cpu") is None
    assert read == [f"run-{number:02}" for number in range(44, 24, -1)]


def test_a_run_is_listed_by_its_real_place_and_with_what_it_died_of() -> None:
    directory = put("real", status="failed", cause="no memory")
    (run_directory.runs_directory() / "link").symlink_to(directory)
    found = {run.directory for run in runs.recent()}
    assert found == {directory.resolve()}
    assert {run.problem for run in runs.recent()} == {"no memory"}


def test_why_a_run_cannot_be_read_is_said_without_the_path_that_names_it() -> None:
    error = runs.RunFileError("/a/b/run.json: cannot be read as a run: it is empty")
    assert runs._why_unreadable(error) == "it is empty"
    assert runs._why_unreadable(runs.RunFileError("something else")) == "something else"


def test_without_any_run_the_table_says_how_to_get_one() -> None:
    assert list(runs.table_lines()) == ["no runs yet; `rankdeck demo` starts one"]
    assert list(runs.json_lines()) == []
    corrupt("bad", b"{")
    assert len(list(runs.table_lines())) == 2


def test_the_sample_prompts_are_there() -> None:
    path = runs.sample_prompts()
    assert path.name == "stories.txt"
    assert len(path.read_text().splitlines()) == 100
