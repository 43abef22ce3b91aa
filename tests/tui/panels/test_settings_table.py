"""The table of settings, the bands above the chart and the rows of the load below it: pure functions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rankdeck.runner.state import HistoryPoint, Mark, RunState
from rankdeck.runner.state.periods import KnobPeriod
from rankdeck.tui.panels.bands import Band, band_row, bands, edges
from rankdeck.tui.panels.chart import LoadRow, chart
from rankdeck.tui.panels.digits import ROWS, large
from rankdeck.tui.panels.overview.advice import all_advice, bound_line
from rankdeck.tui.panels.overview.settings_table import best_of, settings_lines, settings_plain, spread
from rankdeck.tui.panels.overview.throughput import load_rows, throughput_lines
from rankdeck.tui.words.text import line_width, plain
from tests import scripted_steering
from tests.scripted_steering import STATES, SteeredScript

ALL = {name: make().state for name, make in STATES.items()}
SCALED = ALL["scaled_to_eight"]


def rows(state: RunState, width: int = 60, height: int = 0) -> list[list[str]]:
    return [line.split() for line in plain(settings_lines(state, width, height)).split("\n")]


def test_each_setting_has_a_row_with_what_it_brought_the_present_one_marked_and_the_best_starred() -> None:
    head, *table = rows(SCALED, 100)
    head = plain(settings_lines(SCALED, 100)[:1]).replace("per rank", "per-rank").split()
    assert head == [
        "batch",
        "ranks",
        "tok/s",
        "±",
        "speedup",
        "per-rank",
        "busy",
        "DRAM",
        "MBU",
        "tok/J",
        "GiB",
        "batches",
    ]
    assert [row[:2] for row in table[:3]] == [["8", "1"], ["8", "2"], ["8", "4"]]
    assert table[3][:3] == ["▸", "8", "8"]
    assert table[3][-1] == "★"
    assert sum("★" in row for row in table) == 1
    assert "1.98x" in table[1]


def test_what_noise_hides_is_marked_and_said() -> None:
    exact = SteeredScript(batch_size=32, prompts=4000).begun().rounds(4).size(33).rounds(4).state
    assert "≈" not in plain(settings_lines(exact, 60))
    noisy = replace(exact, periods=tuple(_noisy(period) for period in exact.periods))
    assert sorted(row[-1] for row in rows(noisy)[1:3]) == ["≈", "★"]
    assert best_of(noisy).endswith("(within noise of 1 other)")


def _noisy(period: KnobPeriod) -> KnobPeriod:
    """The same rates on the mean, with batches that differ more from each other."""
    shares = {rank: replace(share, squares=share.squares * 1.05) for rank, share in period.shares.items()}
    return replace(period, shares=shares)


def test_where_batches_had_fewer_rows_than_the_batch_size_the_rows_stand_beside_it() -> None:
    assert "rows" not in plain(settings_lines(SCALED, 100))
    *before, last = SCALED.periods
    capped = replace(last, shares={rank: replace(share, rows=6 * share.batches) for rank, share in last.shares.items()})
    head, *table = rows(replace(SCALED, periods=(*before, capped)), 40)
    assert head[:4] == ["batch", "ranks", "tok/s", "rows"]
    assert table[0][3] == "8"
    assert table[3][:3] == ["▸", "8", "8"]
    assert table[3][4] == "7", "the mean of two rounds of 8 and two of 6"


def test_a_setting_that_is_not_measured_yet_says_so_and_has_no_figure() -> None:
    _, first, here, *_ = rows(ALL["knob_just_turned"])
    assert first[0] == "4"
    assert here == ["▸", "8", "2", here[3], "measuring…"]
    assert re.fullmatch(r"~\d+", here[3]), "what its first steps show"


def test_what_another_setting_would_bring_never_looks_like_what_was_measured() -> None:
    predicted = rows(ALL["knob_turned"])[-1]
    assert predicted[:2] == ["16", "2"]
    assert re.fullmatch(r"~\d+", predicted[2])
    assert predicted[3] == "guess"
    styles = {style for _, style in settings_lines(ALL["knob_turned"], 60)[-1]}
    assert styles <= {"dim", ""}


def test_with_one_setting_there_is_no_best() -> None:
    once = SteeredScript().begun().rounds(2).state
    assert "★" not in plain(settings_lines(once, 60))
    assert best_of(once) == ""


def test_before_the_first_batch_there_is_no_table_and_after_the_end_no_forecast() -> None:
    assert settings_lines(RunState(), 60) == []
    ended = scripted_steering.knob_turned().ended(status="stopped").state
    assert "guess" not in plain(settings_lines(ended, 60))
    assert "▸" not in plain(settings_lines(ended, 60))


@given(st.integers(24, 120), st.integers(0, 9), st.sampled_from(sorted(ALL)))
def test_the_table_fits_any_room(width: int, height: int, name: str) -> None:
    lines = settings_lines(ALL[name], width, height)
    assert all(line_width(line) <= width for line in lines)
    assert not height or len(lines) <= max(2, height)


def test_an_interval_as_wide_as_its_figure_is_cut_short_in_words_and_not_in_the_middle() -> None:
    assert [spread(share) for share in (0.004, 0.12, 0.994, 1.0, 2.23)] == ["0%", "12%", "99%", ">99", ">99"]


def test_in_few_lines_the_present_setting_and_the_best_stay() -> None:
    state = SteeredScript(8).begun().rounds(2).activate(1).rounds(2).activate(2).rounds(2).activate(4).rounds(2).state
    shown = rows(state, 40, 3)
    assert [row[:3] for row in shown[1:]] == [["▸", "4", "4"], ["4", "8", shown[2][2]]]
    assert "★" in shown[2]


def test_in_lines_a_row_begins_with_batch_size_and_active_ranks_in_figures() -> None:
    table = plain(settings_plain(SCALED)).split("\n")
    assert [row.split()[:2] for row in table[1:]] == [["8", "1"], ["8", "2"], ["8", "4"], ["8", "8"]]
    assert table[4].endswith("★")
    assert best_of(SCALED).startswith("best: batch size 8 x 8 ranks, 68")


# --- bands ------------------------------------------------------------------------------------------


def test_a_band_is_named_by_what_differs_and_has_its_figure() -> None:
    assert [band.names[0] for band in bands(ALL["knob_turned"])] == ["batch 4", "batch 8"]
    assert [band.names[0] for band in bands(SCALED)] == ["8 ranks", "1 rank", "2 ranks", "4 ranks", "8 ranks"]
    both = SteeredScript().begun().rounds(1).size(8).rounds(1).activate(1).rounds(1, finish=False).state
    assert [band.names[0] for band in bands(both)] == ["4 x 2", "8 x 2", "8 x 1"]
    assert bands(SteeredScript().begun().rounds(3).state) == [], "with one setting there is nothing to tell apart"


def test_a_band_has_the_figure_of_the_table_however_often_its_setting_was_in_force() -> None:
    script = SteeredScript().begun().rounds(3).size(8).rounds(2).size(4)
    again = script.rounds(1).state
    *before, last = again.periods
    halved = {rank: replace(share, seconds=2 * share.seconds) for rank, share in last.shares.items()}
    state = replace(again, periods=(*before, replace(last, shares=halved)))
    first, _, third = bands(state)
    here = rows(state)[1]
    assert here[:2] == ["▸", "4"]
    assert first.figure == third.figure == here[3] != bands(again)[0].figure


def test_a_setting_taken_up_again_at_once_is_one_band() -> None:
    again = SteeredScript().begun().rounds(1).size(8).rounds(1).size(4).size(8).rounds(1).state
    assert [band.names[0] for band in bands(again)] == ["batch 4", "batch 8"]


@given(
    st.lists(st.floats(0, 600), min_size=1, max_size=12),
    st.integers(1, 160),
    st.booleans(),
)
def test_bands_never_leave_the_chart(begins: list[float], width: int, measured: bool) -> None:
    begins = sorted(begins)
    found = [
        Band(began, ended, ("batch 16", "16"), "1,234" if measured else "")
        for began, ended in zip(begins, [*begins[1:], 600.0], strict=True)
    ]
    assert line_width(band_row(found, 600.0, width)) == width
    assert all(0 <= edge < width for edge in edges(found, 600.0, width))


def test_the_chart_has_the_band_of_each_setting_with_its_figure_above_it() -> None:
    lines = plain(throughput_lines(ALL["knob_turned"], 70, 11)).split("\n")
    above = next(line for line in lines if "batch 4" in line and "→" not in line)
    assert "batch 4: 115" in above
    assert "batch 8: 174" in above
    edge = above.index("▏")
    assert sum(line[edge : edge + 1] == "│" for line in lines) >= 2, "a line down through the plot"


# --- the load -----------------------------------------------------------------------------------------


def test_busy_and_dram_stand_below_on_the_same_axis() -> None:
    state = scripted_steering.knob_turned(gpus=2).state
    lines = plain(throughput_lines(state, 70, 11)).split("\n")
    assert re.match(r"busy +9\d%  ▇", lines[-2])
    assert re.match(r"DRAM +\d\d%  ▁", lines[-1])
    axis = next(line for line in lines if "└" in line)
    assert lines[-2].index("▇") == axis.index("└") + 1


def test_without_gpus_the_processors_stand_there_and_no_dram() -> None:
    assert [load.name for load in load_rows(ALL["knob_turned"])] == ["CPU"]
    assert [load.name for load in load_rows(SCALED)] == ["busy", "DRAM"]


def test_the_scale_of_a_load_is_always_0_to_100() -> None:
    history = [HistoryPoint(float(at), 100.0) for at in range(10)]
    loads = [LoadRow("busy", 50.0, [(float(at), 50.0) for at in range(10)])]
    last = plain(chart(history, 40, 8, loads=loads)).split("\n")[-1]
    assert set(last.removeprefix("busy  50%").strip()) == {"▄"}


@pytest.mark.parametrize("height", range(2, 15))
def test_a_chart_with_everything_fills_its_height_exactly(height: int) -> None:
    history = [HistoryPoint(float(at), 100.0) for at in range(10)]
    found = [Band(0, 5, ("batch 4", "4"), "90"), Band(5, 9, ("batch 8", "8"), "")]
    loads = [LoadRow(name, 50.0, [(1.0, 50.0)]) for name in ("busy", "DRAM")]
    marks = [Mark(elapsed=3, kind="pause", text="paused")]
    lines = chart(history, 50, height, marks, found, loads)
    assert len(lines) == height
    assert {line_width(line) for line in lines} == {50}


# --- the head and the verdict -----------------------------------------------------------------------


@given(st.floats(0, 1e6))
def test_large_digits_have_rows_of_one_width(value: float) -> None:
    drawn = large(f"{value:,.1f}")
    assert len(drawn) == ROWS
    assert len({len(row) for row in drawn}) == 1


def test_a_verdict_stands_in_one_line_with_its_evidence() -> None:
    state = scripted_steering.knob_turned(gpus=2).state
    line = plain([bound_line(state, 116)])
    assert line.startswith("bound by kernel launches: busy 9")
    assert "larger batches cost little" in line
    assert line.rstrip().endswith("tok/J")
    assert line_width(bound_line(state, 56)) == 56
    on_a_cpu = plain([bound_line(scripted_steering.knob_turned().state, 116)])
    assert "larger batches cost little" in on_a_cpu, "though nothing stands on the right"
    assert bound_line(replace(state, paused="asked for"), 116) == ()


def test_after_the_end_the_best_setting_stands_in_its_place() -> None:
    state = scripted_steering.knob_turned().ended(status="stopped").state
    assert plain([bound_line(state, 76)]).startswith(
        "★ best: batch size 8 x 2 ranks, 174 tok/s, 1.5x the first setting"
    )
    alone = SteeredScript().begun().rounds(2).ended().state
    assert plain([bound_line(alone, 76)]).startswith("bound by fixed cost per step at the end: CPU 96%")


def test_after_the_end_what_the_run_was_bound_by_stands_beside_the_best_where_there_is_room() -> None:
    state = scripted_steering.knob_turned().ended(status="stopped").state
    assert "1.5x the first setting   bound by fixed cost per step at the end" in plain([bound_line(state, 116)])
    assert "at the end" not in plain([bound_line(state, 76)])
    again = scripted_steering.knob_turned().size(16).ended(status="stopped").state
    assert "bound by fixed cost per step at the end" in plain(all_advice(again, 100)), "no batch came after this change"
    told = plain(all_advice(state, 100))
    assert "★ best: batch size 8" in told
    assert "bound by fixed cost per step at the end: CPU 96%" in told
