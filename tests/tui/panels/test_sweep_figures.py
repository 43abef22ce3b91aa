"""The figures of a sweep: the view, the log and the report show the same ones, and they read the same."""

from pathlib import Path

from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.verdict import SweepSummary, summarise_sweep
from rankdeck.tui.panels.sweep.chart import scaling_table
from rankdeck.tui.panels.sweep.figures import (
    FIGURES,
    known,
    marks,
    rate_value,
    same_and_best_scaling,
    scaling_values,
    why_missing,
)
from rankdeck.tui.panels.sweep.table import table_lines
from rankdeck.tui.plain.sweep import sweep_lines
from rankdeck.tui.words.text import plain
from tests.reports import Page, reported, write_run
from tests.scripted_sweep import OUT_OF_MEMORY, STATES, SweepScript, plan

GPUS = SweepScript(plan((4, 16), (1, 2), 2), 2, gpus=2).begun().over(8).settled().state
NOT_ON_SCREEN = ("trials", "with prompts", "p90 ms")


def summary_of(state: RunState) -> SweepSummary:
    assert state.sweep is not None
    return summarise_sweep(state.sweep)


def page_of(state: RunState, directory: Path) -> Page:
    write_run(directory, config=state.config, sweep=summary_of(state))
    assert reported(directory).exit_code == 0
    return Page(directory / "report.html")


def test_every_figure_of_a_setting_reads_the_same_on_screen_in_the_log_and_in_the_report(tmp_path: Path) -> None:
    assert GPUS.sweep is not None
    summary = summary_of(GPUS)
    figures = known(FIGURES, summary.cells)
    assert len(figures) == len(FIGURES) - 1, "all but the tensor pipe"
    page = page_of(GPUS, tmp_path / "s")
    tables = page.tables["Throughput"], page.tables["How full the devices were"]
    screen = plain(table_lines(GPUS, GPUS.sweep, summary, 200)).split("\n")
    log = sweep_lines(GPUS, GPUS.sweep)
    for place, cell in enumerate(summary.cells):
        rate = rate_value(cell, 1)
        assert rate is not None
        texts = {figure.heading.title: value.text for figure in figures if (value := figure.value(cell, 1)) is not None}
        assert log[2 + place].split() == [*map(str, cell.setting), rate.text, rate.noise, *texts.values()]
        assert [text for table in tables for text in table[1 + place][3:]] == list(texts.values())
        shown = [text for title, text in texts.items() if title not in NOT_ON_SCREEN]
        assert " ".join([rate.text, f"±{rate.noise}", *shown]) in " ".join(screen[1 + place].replace("n/a", "").split())


def test_scaling_reads_the_same_on_screen_in_the_log_and_in_the_report(tmp_path: Path) -> None:
    assert GPUS.sweep is not None
    summary = summary_of(GPUS)
    same, each = same_and_best_scaling(summary)
    assert not each
    screen = plain(scaling_table(GPUS.sweep.plan, summary, same, each)).split("\n")
    log = sweep_lines(GPUS, GPUS.sweep)
    at = log.index(f"scaling at batch size {same[0].batch_size}:")
    report = [" ".join(row) for row in page_of(GPUS, tmp_path / "s").tables["What more ranks bring"]]
    for place, row in enumerate(same):
        rate, speedup, efficiency = scaling_values(row, 1)
        setting = f"{row.active_ranks} {row.batch_size}"
        ratios = [f"{value.text} ±{value.noise}" if value.noise else value.text for value in (speedup, efficiency)]
        assert screen[1 + place].split() == " ".join([setting, rate.text, *ratios]).split()
        noisy = [text for value in (rate, speedup, efficiency) for text in (value.text, value.noise) if text]
        assert log[at + 2 + place].split() == [*setting.split(), *noisy]
        said = [f"{value.text} ± {value.noise}" if value.noise else value.text for value in (rate, speedup, efficiency)]
        assert " ".join([setting, *said]) in report


def test_a_setting_beyond_the_wall_of_memory_is_skipped_before_its_turn_comes() -> None:
    script = SweepScript(plan((4, 8, 16), (1,), 1), 1, gpus=1).begun()
    script._finish(next(trial for trial in script.trials if trial.batch_size == 8), "out_of_memory", OUT_OF_MEMORY)
    cells = summary_of(script.state).cells
    gaps = {cell.batch_size: missing for cell in cells if (missing := why_missing(cell, cells)) is not None}
    assert gaps[4].sentence == "not run"
    assert gaps[8].sentence == f"out of memory: {OUT_OF_MEMORY}"
    assert gaps[16].sentence == "skipped: 8 did not fit"


def test_a_setting_has_the_mark_that_tells_most() -> None:
    state = STATES["tied"]().state
    summary = summary_of(state)
    assert summary.best is not None
    assert summary.chosen is not None
    assert marks(summary)[summary.best.setting] == "best"
    assert marks(summary)[summary.chosen.setting] == "chosen", "though it is tied, too"
    assert set(marks(summary).values()) == {"best", "chosen", "knee"}
