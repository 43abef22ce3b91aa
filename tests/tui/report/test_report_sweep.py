"""The report of a sweep, and two runs side by side."""

import csv
import json
import re

import msgspec
import pytest

from rankdeck.runner import run_directory
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.sweep.verdict import summarise_sweep
from rankdeck.tui.plain.sweep import sweep_lines
from rankdeck.tui.report import source
from rankdeck.tui.report.compare import comparison_lines
from rankdeck.tui.report.scaling import scaling_plot
from rankdeck.tui.report.sweep import rates_plot
from tests import scripted_sweep
from tests.reports import (
    Page,
    environment,
    markdown_tables,
    record,
    reported,
    summary,
    write_recorded,
    write_run,
    write_sweep,
)
from tests.scripted_sweep import SweepScript, plan
from tests.tui.panels.test_sweep_charts import measured

# --- a sweep ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("cells", 1, "active_ranks"), 0),
        (("cells", 1, "batch_size"), -1),
        (("scaling", 1, "active_ranks"), 0),
        (("best", "tokens_per_second"), None),
        (("verdict", "chosen", "tokens_per_second"), None),
    ],
)
def test_an_edited_sweep_with_figures_that_cannot_be_is_refused_by_its_file(tmp_path, place, value):
    write_sweep(tmp_path / "s")
    edit(tmp_path / "s", place, value)
    result = reported(tmp_path / "s")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"rankdeck: {tmp_path / 's' / 'run.json'}")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("cells", 1, "tokens_per_second", "count"), 0),
        (("cells", 1, "tokens_per_second", "count"), 1),
        (("cells",), []),
        (("cells", 1), "gone"),
        (("knees",), []),
    ],
)
def test_an_edited_sweep_that_lacks_something_is_shown_without_it(tmp_path, place, value):
    write_sweep(tmp_path / "s")
    edit(tmp_path / "s", place, value)
    assert reported(tmp_path / "s").exit_code == 0


def edit(directory, place, value):
    """Change one value in the sweep of a run.json; "gone" takes an entry of a list out."""
    path = directory / "run.json"
    content = json.loads(path.read_text())
    *before, last = place
    there = content["sweep"]
    for key in before:
        there = there[key]
    if value == "gone":
        del there[last]
    else:
        there[last] = value
    path.write_text(json.dumps(content))


def test_a_sweep_shows_every_setting_the_best_one_and_the_wall(tmp_path):
    run = write_sweep(tmp_path / "s")
    assert reported(tmp_path / "s").exit_code == 0
    page = Page(tmp_path / "s" / "report.html")
    assert "****" not in (tmp_path / "s" / "report.md").read_text()
    table = page.tables["Output tokens/s for every setting"]
    assert table[0] == ["batch size", "1 rank", "2 ranks"]
    assert table[3][2] == "out of memory"
    assert ["★" in cell for cell in table[3]] == [False, True, False]
    exact = page.exact["Output tokens/s for every setting"]
    found = {(cell.active_ranks, cell.batch_size): cell.tokens_per_second for cell in run.sweep.cells}
    for row, size in zip(exact[1:], (1, 4, 16), strict=True):
        for value, ranks in zip(row[1:], (1, 2), strict=True):
            assert (None if value is None else float(value)) == (found[ranks, size] and found[ranks, size].mean)
    knees = page.tables["Where a larger batch stops to pay"][1:]
    assert [row[2] for row in knees] == [knee.sentence for knee in run.sweep.knees]
    assert "Best: 1 rank x batch size 16: " in page.text
    assert run.sweep.verdict.sentence in page.text
    speedups = [float(row[3]) for row in page.exact["What more ranks bring"][1:]]
    assert speedups == [row.speedup for row in run.sweep.scaling]
    for words in (
        "ideal",
        "discarded",
        "3,350 GB/s (table of known GPUs)",
        "fixed length",
        "2 ranks x 16: out of memory: =out",
    ):
        assert words in page.text


def test_a_report_names_ties_with_the_best_the_chosen_setting_and_both_scalings(tmp_path):
    state = scripted_sweep.tied().state
    run = write_run(tmp_path / "s", config=state.config, sweep=summarise_sweep(state.sweep))
    assert reported(tmp_path / "s").exit_code == 0
    page = Page(tmp_path / "s" / "report.html")
    assert "tied with 1 other" in page.text
    assert re.search(r"chosen setting\s*2 ranks x 16", page.text)
    assert f"Best: 2 ranks x batch size 32: 440.6 ± 2.8 tok/s; {run.sweep.verdict.sentence}." in page.text
    same = page.exact["What more ranks bring"][1:]
    each = page.exact["What more ranks bring at the best batch size of each"][1:]
    for rows, found in ((same, run.sweep.scaling), (each, run.sweep.best_scaling)):
        assert [float(row[3]) for row in rows] == [row.speedup for row in found]
    noise = run.sweep.best_scaling[1]
    shown = page.tables["What more ranks bring at the best batch size of each"][2]
    assert shown[3].split() == [f"{noise.speedup:.2f}x", "±", f"{noise.speedup_half_width:.2f}"]
    assert shown[4].split() == [f"{noise.efficiency:.0%}", "±", f"{noise.efficiency_half_width:.0%}"]


def scaled(directory, rates):
    """The page, the Markdown, the names of the lines of speedup and the state of a sweep with these tokens/s."""
    state = measured(rates)
    run = write_run(directory, config=state.config, sweep=summarise_sweep(state.sweep))
    assert reported(directory).exit_code == 0
    text = (directory / "report.md").read_text()
    return Page(directory / "report.html"), text, [line.name for line in scaling_plot(run.sweep).lines], state


EACH = "What more ranks bring at the best batch size of each"


def test_scaling_of_the_best_is_not_repeated_where_a_batch_size_has_the_same(tmp_path):
    page, text, lines, _ = scaled(tmp_path / "same", {(1, 8): (50, 51), (2, 8): (98, 99)})
    assert EACH not in page.tables
    assert lines == ["ideal", "batch 8"]
    assert "Best with each number of ranks: the same as at batch size 8." in page.text
    assert "That of the best with each number of ranks is the same as of batch size 8." in text
    assert "and one for the best" not in text
    _, text, lines, _ = scaled(
        tmp_path / "unlike", {(1, 8): (50, 51), (1, 16): (70, 71), (2, 8): (98, 99), (2, 16): (40, 41)}
    )
    assert lines == ["ideal", "batch 8", "batch 16", "best of each"]
    assert "A line per batch size, and one for the best with each number of ranks, with" in text


def test_scaling_of_the_best_is_shown_where_no_batch_size_has_two_numbers_of_ranks(tmp_path):
    page, text, lines, state = scaled(tmp_path / "s", {(1, 16): (50, 51), (2, 8): (90, 91)})
    assert "What more ranks bring" not in page.tables
    assert [row[:2] for row in page.tables[EACH][1:]] == [["1", "16"], ["2", "8"]]
    assert lines == ["ideal", "best of each"]
    assert "A line for the best with each number of ranks, with" in text
    logged = sweep_lines(state, state.sweep)
    at = logged.index("scaling of the best with each number of ranks:")
    assert [row.split()[:2] for row in logged[at + 2 : at + 4]] == [["1", "16"], ["2", "8"]]
    assert not any(line.startswith("scaling at batch size") for line in logged)


def test_a_sweep_that_ended_early_says_so_and_how_often_its_settings_were_measured(tmp_path):
    script = SweepScript(plan((1, 4, 8), (1, 2))).begun().over(9).settled("by hand")
    write_run(tmp_path / "s", config=script.state.config, sweep=summarise_sweep(script.state.sweep))
    journal = b"".join(msgspec.json.encode(event) + b"\n" for event in script.events)
    (tmp_path / "s" / run_directory.EVENTS_FILE).write_bytes(journal)
    assert reported(tmp_path / "s").exit_code == 0
    page = Page(tmp_path / "s" / "report.html")
    assert "The sweep ended early: by hand." in page.text
    assert "1 to 2 of 3 repeats of each setting, in shuffled order" in page.text


def test_how_it_was_measured_says_where_trials_cut_their_answers(tmp_path):
    run = write_sweep(tmp_path / "s")
    assert reported(tmp_path / "s").exit_code == 0
    assert "cut at" not in Page(tmp_path / "s" / "report.html").text
    sweep = msgspec.structs.replace(run.config.sweep, trial_tokens=32)
    write_run(tmp_path / "cut", config=msgspec.structs.replace(run.config, sweep=sweep), sweep=run.sweep)
    assert reported(tmp_path / "cut").exit_code == 0
    page = Page(tmp_path / "cut" / "report.html")
    assert "Answers were cut at 32 tokens; those of a run may have 100." in page.text
    assert "so that every answer has 32 tokens" in page.text


def test_a_sweep_without_a_verdict_is_judged_from_its_journal_as_in_a_replay(tmp_path):
    script = scripted_sweep.tied()
    found = summarise_sweep(script.state.sweep)
    assert found.chosen != found.best
    old = msgspec.structs.replace(found, verdict=None, best_scaling=[])
    run = write_run(tmp_path / "s", config=script.state.config, sweep=old)
    assert "and one for the best" not in scaling_plot(run.sweep).description, "no such line is drawn of it"
    assert source.read(tmp_path / "s").sweep.chosen == found.best, "of run.json alone nothing else is known"
    journal = b"".join(msgspec.json.encode(event) + b"\n" for event in script.events)
    (tmp_path / "s" / run_directory.EVENTS_FILE).write_bytes(journal)
    assert source.read(tmp_path / "s").sweep == found


def test_a_sweep_recorded_before_there_were_verdicts_is_reported(tmp_path):
    run = write_sweep(tmp_path / "s")
    old = msgspec.structs.replace(run.sweep, verdict=None, best_scaling=[])
    write_run(tmp_path / "old", config=run.config, sweep=old)
    assert reported(tmp_path / "old").exit_code == 0
    assert old.chosen == old.best


def test_the_best_setting_is_marked_in_markdown_too_and_hostile_reasons_stay_in_their_cells(tmp_path):
    write_sweep(tmp_path / "s")
    reported(tmp_path / "s")
    text = (tmp_path / "s" / "report.md").read_text()
    table = next(table for table in markdown_tables(text) if table[0] == ["batch size", "1 rank", "2 ranks"])
    assert [cell.endswith("★") for cell in table[4]] == [False, True, False]
    assert r"=out of \| memory" in text


def test_the_csv_of_a_sweep_has_a_line_per_trial_with_exact_figures(tmp_path):
    run = write_sweep(tmp_path / "s")
    reported(tmp_path / "s")
    with (tmp_path / "s" / "report.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(run.sweep.records) == 18
    for line, one in zip(lines, run.sweep.records, strict=True):
        assert int(line["number"]) == one.trial.number
        assert line["outcome"] == one.outcome
        if one.result is not None:
            assert float(line["tokens_per_second"]) == one.result.tokens_per_second
            assert [float(line[f"step_ms_p{part}"]) for part in (50, 90, 99)] == list(one.result.step_ms)
            assert len(line["rank_tokens_per_second"].split(";")) == one.trial.active_ranks
        else:
            assert line["reason"] == "'=out of | memory"
    written = json.loads((tmp_path / "s" / "report.json").read_bytes())
    assert written["sweep"] == json.loads((tmp_path / "s" / "run.json").read_bytes())["sweep"]


def test_a_wall_before_every_line_and_a_sweep_of_one_setting_are_drawn(tmp_path):
    write_sweep(tmp_path / "all", wall=1)
    run = run_directory.read_run_file(tmp_path / "all")
    first = [cell for cell in run.sweep.cells if (cell.active_ranks, cell.batch_size) == (1, 1)]
    sweep = msgspec.structs.replace(run.sweep, cells=first, best=first[0], knees=[], scaling=[], records=[])
    write_run(tmp_path / "one", sweep=sweep)
    nothing = msgspec.structs.replace(sweep, cells=[], best=None)
    write_run(tmp_path / "none", sweep=nothing)
    for name in ("all", "one", "none"):
        assert reported(tmp_path / name).exit_code == 0
    assert "No setting was measured." in Page(tmp_path / "none" / "report.html").text


def test_a_line_ends_at_its_first_wall():
    summary = summarise_sweep(scripted_sweep.STATES["wall"]().state.sweep)
    walls = [cell.setting for cell in summary.cells if cell.outcome == "out_of_memory"]
    assert walls == [(1, 64), (1, 128), (2, 64)]
    assert [(wall.x, wall.height) for wall in rates_plot(summary).walls] == [(64, None)]


# --- two runs -----------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    """Two runs of nearly the same prompts: a text and a prompt differ, an answer is missing, one failed in both."""
    mine = [record(index) for index in range(5)] + [record(5, finish_reason="error", error="x", text="")]
    theirs = [record(0), record(1, "no"), record(2, prompt="another"), record(3), mine[5]]
    one = write_run(tmp_path / "one", mine)
    other = write_run(
        tmp_path / "other",
        theirs,
        summary=summary(rate=100.0, seconds=12.5),
        config=RunConfig(prompts="p.txt", ranks=2, batch_size=8, name="other"),
        environment=environment(cores=4, packages={"torch": "2.12.0"}),
    )
    return one, other


def test_two_runs_are_shown_side_by_side_with_their_differences(tmp_path, pair):
    assert reported(tmp_path / "one", "--compare", tmp_path / "other").exit_code == 0
    page = Page(tmp_path / "one" / "report.html")
    rows = {row[0]: row[1:] for row in page.tables["Headline figures"]}
    assert rows["figure"][:3] == ["one", "other", "difference"]
    assert rows["tokens/s"] == ["123.457", "100.000", "+23.457", "+23.5%"]
    assert rows["seconds"] == ["10.003", "12.500", "-2.497", "-20.0%"]
    assert rows["padding waste"][2:] == ["0.00 points", "-"]
    assert page.tables["Settings that differ"][1:] == [["batch_size", "4", "8"]]
    assert page.tables["Environments where they differ"][1:] == [["cores", "2", "4"], ["torch", "2.13.0", "2.12.0"]]
    assert "Of 3 prompts answered in both runs, 2 have equal texts and 1 differ (index 1)." in page.text
    assert "1 index belong to another prompt in the other run. Answered only here: 1; only there: 0." in page.text
    written = json.loads((tmp_path / "one" / "report.json").read_bytes())
    assert written["comparison"]["figures"][0]["difference"] == 123.457 - 100.0
    assert written["comparison"]["texts"]["equal"] == 2
    with (tmp_path / "one" / "report.csv").open() as file:
        assert [line["run"] for line in csv.DictReader(file)] == ["one"] * 3 + ["other"] * 3


def test_both_curves_are_in_one_chart(tmp_path):
    write_recorded(tmp_path / "one")
    write_recorded(tmp_path / "other")
    reported(tmp_path / "one", "--compare", tmp_path / "other")
    text = (tmp_path / "one" / "report.md").read_text()
    assert "one: highest 135 tokens/s, over 54 s; other: highest 135 tokens/s, over 54 s." in text
    assert "Of 100 prompts answered in both runs, 100 have equal texts." in text
    assert "The settings are the same." in text


def test_two_sweeps_are_compared_setting_by_setting_with_their_noise(tmp_path):
    write_sweep(tmp_path / "one", factor=100)
    write_sweep(tmp_path / "other", factor=100.2, wall=None)
    reported(tmp_path / "one", "--compare", tmp_path / "other")
    rows = Page(tmp_path / "one" / "report.html").tables["tokens/s of every setting"]
    assert rows[1][-1] == "within noise"
    assert rows[6][2] == "n/a"
    with (tmp_path / "one" / "report.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 36


def test_a_run_and_a_sweep_are_compared_as_far_as_possible(tmp_path):
    write_run(tmp_path / "run")
    write_sweep(tmp_path / "sweep")
    for one, other in (("run", "sweep"), ("sweep", "run")):
        assert reported(tmp_path / one, "--compare", tmp_path / other).exit_code == 0
        assert "their tokens/s are not to be compared" in Page(tmp_path / one / "report.html").text


def test_a_comparison_in_plain_lines_is_aligned_and_complete(pair):
    lines = comparison_lines(*pair)
    assert lines[0].split() == ["one", "other", "difference"]
    assert lines[1].split() == ["tokens/s", "123.457", "100.000", "+23.457", "+23.5%"]
    assert lines[1].index("100.000") + 7 == lines[0].index("other") + 5
    assert "rank 1 tokens/s" in lines[9]
    assert lines[10] == "batch_size: 4 against 8"


def test_plain_lines_say_when_the_work_differs_and_when_a_figure_is_missing(pair):
    one, other = pair
    fixed = msgspec.structs.replace(other, config=msgspec.structs.replace(other.config, ignore_eos=True))
    assert "their tokens/s are not to be compared" in comparison_lines(one, fixed)[-1]
    fewer = msgspec.structs.replace(other, prompts=3, summary=None, name="\x1b[31mred")
    lines = comparison_lines(one, fewer)
    assert lines[-1] == "Not the same work: number of prompts differ."
    assert lines[1].split() == ["tokens/s", "123.457", "n/a", "n/a", "-"]
    assert "\x1b" not in "".join(lines)


def test_a_run_with_a_sweep_on_its_way_is_reported_as_a_run(tmp_path):
    run = write_sweep(tmp_path / "s")
    config = msgspec.structs.replace(run.config, sweep=None)
    run_directory.write_run_file(tmp_path / "s", msgspec.structs.replace(run, config=config))
    assert reported(tmp_path / "s").exit_code == 0
    told = (tmp_path / "s" / "report.md").read_text()
    assert "output tokens per second" in told
    assert "padding waste" in told
    assert "Output tokens/s for every setting" in told
