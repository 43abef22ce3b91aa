"""What the panels say: pure functions from a state to lines, tested without an app."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len

from runner import protocol
from runner.protocol import ProcessSample
from runner.state import HistoryPoint, RunState, apply
from tests import scripted
from tests.scripted import GIB
from tui.outputs import OutputBook
from tui.text import (
    clock,
    cut,
    cut_middle,
    fit,
    flow,
    line_width,
    percent,
    plain,
    rate,
    size,
    visible,
    whole_percent,
    wrap,
)
from tui.widgets.answers import SHOWN_CHARACTERS, answer_lines, answer_row
from tui.widgets.bars import Column, bar, widths
from tui.widgets.chart import chart, columns, round_maximum, round_span
from tui.widgets.devices import device_lines
from tui.widgets.header import header_line
from tui.widgets.lines import changed_cells, merged
from tui.widgets.log import entry_lines
from tui.widgets.progress import progress_lines
from tui.widgets.ranks import rank_lines
from tui.widgets.summary import summary_lines
from tui.widgets.tail import tail_lines
from tui.widgets.throughput import throughput_lines

SIZES = (58, 76, 116, 196)
STATES = {
    "before the first event": RunState(),
    "starting": scripted.starting().state,
    "fetching": scripted.fetching().state,
    "loading": scripted.loading().state,
    "running on a cpu": scripted.running().state,
    "running on 2 GPUs": scripted.running(2, gpus=2).state,
    "running on 8 GPUs": scripted.running(8, gpus=8, prompts=1000).state,
    "completed": scripted.completed().state,
    "failed": scripted.failed().state,
}

# --- text -------------------------------------------------------------------------------------


@given(st.text())
def test_whatever_a_model_writes_no_control_character_reaches_the_terminal(text: str) -> None:
    shown = visible(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    shown.encode()


def test_escape_codes_bidi_and_zero_width_characters_are_shown_as_what_they_are() -> None:
    assert visible("a\x1b[31mb\x00\x7f") == "a␛[31mb␀␡"
    assert visible("\u202eevil\u200b\u0085") == "⟨U+202E⟩evil⟨U+200B⟩⟨U+0085⟩"
    assert visible("\ud800") == "⟨U+D800⟩"


def test_newlines_are_kept_where_they_are_wanted_and_marked_elsewhere() -> None:
    assert visible("a\r\nb\tc") == "a↵b c"
    assert visible("a\r\nb\rc", keep_newlines=True) == "a\nb␍c"


@given(st.text(), st.integers(0, 40))
def test_a_cut_text_is_never_wider_than_asked(text: str, width: int) -> None:
    text = visible(text)
    assert cell_len(cut(text, width)) <= width
    assert cell_len(cut_middle(text, width)) <= width


def test_a_long_name_is_cut_in_its_middle_and_wide_characters_count_two() -> None:
    assert cut_middle("/home/ada/models/SmolLM2-135M-Instruct", 20) == "/home/ada…M-Instruct"
    assert cut_middle("短い名前と長い名前", 9) == "短い…名前"


@given(st.text(), st.integers(2, 40))
def test_wrapping_loses_no_ink_and_keeps_to_the_width(text: str, width: int) -> None:
    text = visible(text, keep_newlines=True)
    lines = wrap(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)


def test_a_megabyte_without_a_space_is_cut_at_once() -> None:
    assert cut("x" * 1_000_000, 20) == "x" * 19 + "…"


def test_figures_read_as_people_write_them() -> None:
    assert [clock(seconds) for seconds in (None, 42.9, 3723, 97440)] == ["--:--", "00:42", "1:02:03", "1d 03:04"]
    assert [rate(value) for value in (0, 9.44, 238.4, 12345.0)] == ["0", "9.4", "238", "12,345"]
    assert [percent(0.124), whole_percent(0.999), whole_percent(1.0)] == ["12%", "99%", "100%"]
    assert [size(2048), size(93 * 2**20), size(3 * GIB)] == ["2 KiB", "93.0 MiB", "3.0 GiB"]


# --- bars, tables, chart ------------------------------------------------------------------------


@given(st.floats(-1, 2), st.integers(1, 40))
def test_a_bar_is_exactly_as_wide_as_asked(share: float, width: int) -> None:
    assert line_width(bar(share, width)) == width


def test_a_bar_is_full_only_at_the_end_and_empty_only_at_the_start() -> None:
    assert plain([bar(0, 8)]) == "░" * 8
    assert plain([bar(0.001, 8)]).startswith("▏")
    assert plain([bar(0.9999, 8)]) == "█" * 7 + "▉"
    assert plain([bar(1, 8)]) == "█" * 8


@given(st.integers(20, 300))
def test_a_table_never_outgrows_its_width(width: int) -> None:
    table = (Column("a", 5), Column("b", 5, "right", 20), Column("c", 4, "left", 60))
    sizes, gap = widths(table, width)
    assert sum(sizes) + gap * 2 <= width


@pytest.mark.parametrize(
    ("value", "nice"), [(0, 10), (0.4, 0.4), (9, 10), (10, 10), (238, 300), (301, 400), (1264, 1500), (9_900, 10_000)]
)
def test_the_scale_ends_at_a_round_number_above_the_highest_bar(value: float, nice: float) -> None:
    assert round_maximum(value) == pytest.approx(nice)


def test_the_time_axis_grows_in_round_spans() -> None:
    assert [round_span(seconds) for seconds in (0, 30, 31, 400, 90_000)] == [30, 30, 60, 600, 172_800]


def history(*values: float) -> list[HistoryPoint]:
    return [HistoryPoint(elapsed, value) for elapsed, value in enumerate(values)]


def test_a_bar_of_half_the_scale_is_half_as_high_because_the_scale_starts_at_zero() -> None:
    lines = plain(chart(history(*[150.0] * 30, 300.0), 40, 9)).split("\n")
    plot = [line[5:] for line in lines[:-1]]
    assert lines[0].startswith("300 ┤")
    assert lines[-1].startswith("  0 └")
    assert [line[:1] for line in plot] == [" "] * 4 + ["█"] * 4


def test_high_values_far_apart_from_zero_do_not_stretch_the_scale() -> None:
    lines = plain(chart(history(*[290.0, 300.0] * 10), 40, 9)).split("\n")
    assert all(line[5] != " " for line in lines[1:-1])


def test_the_chart_is_blank_where_no_time_has_passed_yet_and_holds_a_value_between_samples() -> None:
    values = columns(history(10.0, 20.0), 30, 15.0)
    assert values[:4] == [10.0, 10.0, 20.0, None]
    assert values[4:] == [None] * 26


@pytest.mark.parametrize("width", [20, 38, 76])
@pytest.mark.parametrize("height", [2, 5, 14])
def test_a_chart_fills_exactly_its_space(width: int, height: int) -> None:
    lines = chart(history(1.0, 5.0, 12.0), width, height)
    assert len(lines) == height
    assert {line_width(line) for line in lines} == {width}


# --- panels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("width", SIZES)
def test_no_panel_is_ever_wider_than_its_room(name: str, width: int) -> None:
    state = STATES[name]
    lines = [
        header_line(state, width),
        *throughput_lines(state, width // 2, 8),
        *progress_lines(state, width // 2 - 4, 8),
        *device_lines(state, width),
        *rank_lines(state, width),
        *summary_lines(state, None, width),
        *tail_lines(state, [scripted.record(3)], width, 5),
    ]
    for line in lines:
        assert line_width(line) <= width, plain([line])


def test_the_header_says_which_run_this_is_and_where_it_is() -> None:
    assert plain([header_line(STATES["running on a cpu"], 120)]).split() == [
        *("rankdeck", "SmolLM2-135M-Instruct", "float32", "2", "ranks", "pull", "natural", "length", "running", "00:15")
    ]
    narrow = plain([header_line(STATES["running on a cpu"], 58)])
    assert "2 ranks" in narrow
    assert narrow.endswith("running 00:15")


def test_the_way_to_the_first_batch_is_shown_with_the_seconds_of_each_phase() -> None:
    text = plain(rank_lines(STATES["loading"], 76))
    assert "0  00:03  ✓ importing  ✓ joining  ▸ loading" in text
    assert "1  00:03  ✓ importing  ▸ joining" in text


def test_fetching_a_model_shows_how_much_is_there() -> None:
    text = plain(progress_lines(STATES["fetching"], 34, 9))
    assert "fetching the model" in text
    assert "44%" in text
    assert "41.0 MiB / 93.0 MiB" in text


def test_progress_shows_every_fact_also_where_there_is_little_height() -> None:
    state = replace(STATES["running on a cpu"], failed=3)
    for height in (6, 9):
        text = plain(progress_lines(state, 44, height))
        for fact in ("/ 100 prompts", "ETA", "output tokens", "batch size", "padding waste", "12%", "3 prompts"):
            assert fact in text, (height, fact)


def test_without_nvml_the_reason_stands_above_cpu_and_memory_of_each_rank() -> None:
    lines = plain(device_lines(STATES["running on a cpu"], 76)).split("\n")
    assert lines[0] == "no GPU figures: no NVIDIA driver library (libnvidia-ml.so.1) on this machine"
    assert "96%" in lines[2]
    assert lines[2].endswith("1.3 GiB")


@pytest.mark.parametrize("width", [58, 76, 116])
def test_what_a_gpu_does_not_tell_is_not_available_never_zero(width: int) -> None:
    state = STATES["running on 2 GPUs"]
    device = state.devices[0]
    bare = protocol.DeviceSample(index=0, uuid="GPU-0", name="NVIDIA T4")
    text = plain(device_lines(replace(state, devices=(replace(device, sample=bare),)), width))
    assert text.count("n/a") >= 4
    assert " 0%" not in text
    assert "0.0" not in text


def test_a_lost_gpu_is_marked_and_the_others_go_on() -> None:
    state = STATES["running on 8 GPUs"]
    lost = replace(state.devices[2], sample=replace(state.devices[2].sample, lost=True))
    lines = plain(device_lines(replace(state, devices=(*state.devices[:2], lost, *state.devices[3:])), 116)).split("\n")
    assert "✗ lost" in lines[3]
    assert "%" in lines[4]


def test_a_gpu_says_which_ranks_use_it_and_what_slows_it_down() -> None:
    lines = plain(device_lines(STATES["running on 8 GPUs"], 116)).split("\n")
    assert lines[4].split()[-3:] == ["power", "cap", "3"]
    shared = plain(device_lines(scripted.running(4, gpus=1).state, 116)).split("\n")
    assert shared[1].endswith("0,1,2,3")


def test_a_lost_rank_says_why_in_its_row() -> None:
    state = scripted.running().add(protocol.RankLost(rank=1, cause="Segmentation fault (signal 11)")).state
    assert "✗ lost" in plain(rank_lines(state, 76))
    assert "Segmentation fault (signal 11)" in plain(rank_lines(state, 76))


def test_the_summary_has_the_figures_and_the_place_of_the_outputs() -> None:
    text = plain(summary_lines(STATES["completed"], None, 116))
    for fact in ("✓ completed", "100 / 100 prompts", "tok/s", "padding waste 12%", "natural length"):
        assert fact in text
    assert f"{scripted.DIRECTORY}/outputs.jsonl" in text


def test_the_cause_of_a_failure_is_told_whole_and_wrapped() -> None:
    text = plain(summary_lines(STATES["failed"], None, 58))
    assert " ".join(scripted.CAUSE.split()) in " ".join(text.split())
    assert "runner.log" in text


def test_a_run_that_cannot_be_watched_any_longer_says_so() -> None:
    assert "the supervisor is gone" in plain(summary_lines(STATES["running on a cpu"], "the supervisor is gone", 58))
    assert summary_lines(STATES["running on a cpu"], None, 58) == []


def test_names_from_outside_are_data_in_every_panel() -> None:
    evil = "[bold]\x1b[2J\u202e"
    state = scripted.running(1, gpus=1).state
    device = replace(state.devices[0], sample=replace(state.devices[0].sample, name=evil))
    state = replace(state, devices=(device,))
    state = apply(state, protocol.LogLine(source=evil, text=evil))
    state = apply(state, protocol.RankLost(rank=0, cause=evil))
    lines = [*device_lines(state, 116), *rank_lines(state, 116), *entry_lines(evil, evil, 80)]
    text = plain([*lines, *answer_lines(scripted.record(0, text=evil), 80)])
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]␛[2J⟨U+202E⟩" in text


def test_an_answer_of_a_megabyte_is_cut_on_screen_and_says_so() -> None:
    lines = answer_lines(scripted.record(0, text="long " * 200_000), 100)
    assert sum(line_width(line) for line in lines) < SHOWN_CHARACTERS + 500
    assert "outputs.jsonl has all of it" in plain(lines)


def test_an_answers_row_is_exactly_as_wide_as_its_columns() -> None:
    row = answer_row(scripted.record(7, text="日本語\nと\x1b"), [8, 4, 6, 6, 20, 20], 2)
    assert line_width(row) == 8 + 4 + 6 + 6 + 20 + 20 + 10


def test_a_log_entry_is_wrapped_beside_its_source() -> None:
    lines = plain(entry_lines("rank 1", "word " * 12, 40)).split("\n")
    assert lines[0].startswith("rank 1      word")
    assert all(line.startswith(" " * 12) for line in lines[1:])


def test_a_process_without_figures_is_not_available() -> None:
    state = replace(STATES["running on a cpu"], processes=(ProcessSample(rank=0, cpu_percent=None, rss_bytes=None),))
    assert plain(device_lines(state, 76)).count("n/a") == 2


# --- painting little ------------------------------------------------------------------------------


def test_only_the_stretch_that_differs_is_painted() -> None:
    old = (("tok/s ", "dim"), ("238", "strong"), (" now", "dim"))
    new = (("tok/s ", "dim"), ("241", "strong"), (" now", "dim"))
    assert changed_cells(old, new, 40) == (7, 9)
    assert changed_cells(old, (("tok/s ", "dim"),), 40) == (6, 40)


def test_pieces_that_look_the_same_are_sent_as_one() -> None:
    assert merged((("  ", ""), ("a", "dim"), (" ", ""), ("b", "dim"), ("", "bar"), ("c", ""))) == (
        ("  a b", "dim"),
        ("c", ""),
    )


def test_facts_flow_into_the_next_line() -> None:
    assert plain(flow([(("one", ""),), (("two", ""),), (("three", ""),)], 10)) == "one   two\nthree"
    assert fit((("abc", ""), ("def", "dim")), 4) == (("abc", ""), ("…", "dim"))


# --- outputs --------------------------------------------------------------------------------------


def test_answers_are_listed_as_they_came_and_in_input_order() -> None:
    book = OutputBook()
    for index in (4, 1, 9, 1):
        book.add(scripted.record(index))
    assert [book.key(position, "arrival") for position in range(3)] == [4, 1, 9]
    assert [book.key(position, "input") for position in range(3)] == [1, 4, 9]
    assert len(book) == 3


def test_earlier_answers_come_before_those_that_arrived_meanwhile() -> None:
    book = OutputBook()
    book.add(scripted.record(5))
    book.add(scripted.record(2))
    book.load([scripted.record(3), scripted.record(5)])
    assert [book.key(position, "arrival") for position in range(3)] == [3, 5, 2]


def test_of_many_answers_the_newest_are_kept() -> None:
    book = OutputBook(kept=100)
    for index in range(1000):
        book.add(scripted.record(index))
    assert len(book) <= 110
    assert book.newest(1)[0].index == 999
    assert book.get(0) is None
