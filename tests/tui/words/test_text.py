"""Texts, bars, charts and lists: the small pure functions behind every panel."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from rankdeck.runner.state import HistoryPoint
from rankdeck.tui.panels.bars import Column, bar, widths
from rankdeck.tui.panels.chart import chart, columns, round_maximum, round_span
from rankdeck.tui.sources.outputs import OutputBook
from rankdeck.tui.widgets.lines import changed_cells, merged
from rankdeck.tui.words.text import (
    clock,
    cut,
    cut_middle,
    fit,
    flow,
    json_safe,
    line_width,
    percent,
    plain,
    rate,
    size,
    visible,
    whole_percent,
    wrap,
)
from tests import scripted
from tests.scripted import GIB

# --- text -------------------------------------------------------------------------------------


@given(st.text())
def test_no_control_character_of_a_model_reaches_the_terminal(text: str) -> None:
    shown = visible(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    shown.encode()


def test_escape_codes_bidi_and_zero_width_characters_are_made_visible() -> None:
    assert visible("a\x1b[31mb\x00\x7f") == "a␛[31mb␀␡"
    assert visible("\u202eevil\u200b\u0085") == "⟨U+202E⟩evil⟨U+200B⟩⟨U+0085⟩"
    assert visible("\ud800") == "⟨U+D800⟩"


@pytest.mark.parametrize("code", [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
def test_every_character_that_turns_the_direction_of_text_is_shown_and_not_sent(code: int) -> None:
    for keep in (False, True):
        assert visible(f"a{chr(code)}b", keep_newlines=keep) == f"a⟨U+{code:04X}⟩b"
    assert json_safe(json.dumps(f"a{chr(code)}b", ensure_ascii=False)) == f'"a\\u{code:04x}b"'


@given(st.text())
def test_json_made_safe_is_the_same_value(text: str) -> None:
    safe = json_safe(json.dumps(text, ensure_ascii=False))
    assert json.loads(safe) == text
    assert visible(safe) == safe


def test_newlines_are_kept_on_request_and_marked_otherwise() -> None:
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
def test_wrapping_loses_only_spaces_and_fits_the_width(text: str, width: int) -> None:
    text = visible(text, keep_newlines=True)
    lines = wrap(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)


def test_a_megabyte_without_a_space_is_cut_quickly() -> None:
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
    assert [round_span(seconds) for seconds in (0, 30, 31, 400, 90_000)] == [30, 30, 60, 420, 172_800]


def test_the_time_axis_of_an_ended_run_is_as_long_as_the_run() -> None:
    run = history(*[150.0] * 20)
    flying, over = (plain(chart(run, 60, 9, over=over)).split("\n") for over in (False, True))
    assert flying[-1].endswith(" 30 s")
    assert over[-1].endswith(" 19 s")
    assert len(flying[-2].rstrip()) < len(over[-2].rstrip()) == 60


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


def test_the_chart_is_blank_in_the_future_and_holds_a_value_between_samples() -> None:
    values = columns([(at.elapsed, at.tokens_per_second) for at in history(10.0, 20.0)], 30, 15.0)
    assert values[:4] == [10.0, 10.0, 20.0, None]
    assert values[4:] == [None] * 26


@pytest.mark.parametrize("width", [20, 38, 76])
@pytest.mark.parametrize("height", [2, 5, 14])
def test_a_chart_fills_its_space_exactly(width: int, height: int) -> None:
    lines = chart(history(1.0, 5.0, 12.0), width, height)
    assert len(lines) == height
    assert {line_width(line) for line in lines} == {width}


# --- painting as little as possible ---------------------------------------------------------------


def test_only_the_part_that_differs_is_painted() -> None:
    old = (("tok/s ", "dim"), ("238", "strong"), (" now", "dim"))
    new = (("tok/s ", "dim"), ("241", "strong"), (" now", "dim"))
    assert changed_cells(old, new, 40) == (7, 9)
    assert changed_cells(old, (("tok/s ", "dim"),), 40) == (6, 40)


def test_pieces_of_the_same_style_are_merged() -> None:
    assert merged((("  ", ""), ("a", "dim"), (" ", ""), ("b", "dim"), ("", "bar"), ("c", ""))) == (
        ("  a b", "dim"),
        ("c", ""),
    )


def test_facts_flow_into_the_next_line() -> None:
    assert plain(flow([(("one", ""),), (("two", ""),), (("three", ""),)], 10)) == "one   two\nthree"
    assert fit((("abc", ""), ("def", "dim")), 4) == (("abc", ""), ("…", "dim"))


# --- outputs --------------------------------------------------------------------------------------


def test_answers_are_listed_in_order_of_arrival_and_of_input() -> None:
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


def test_only_the_newest_of_many_answers_are_kept() -> None:
    book = OutputBook(kept=100)
    for index in range(1000):
        book.add(scripted.record(index))
    assert len(book) <= 110
    assert book.newest(1)[0].index == 999
    assert book.get(0) is None
