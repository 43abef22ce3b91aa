"""Text in cells, to the cell: cut, padded, wrapped, side by side; and figures at bounds where they read otherwise."""

import pytest
from rich.cells import cell_len

from rankdeck.tui.words.text import (
    as_many,
    between,
    clock,
    count,
    cut,
    cut_middle,
    fit,
    flow,
    gib,
    json_safe,
    line_width,
    model_name,
    pad,
    percent,
    plain,
    rate,
    short_count,
    short_rate,
    size,
    some,
    visible,
    whole_percent,
    wrap,
)

# --- what is made visible -------------------------------------------------------------------------

INVISIBLE = [
    *range(0x7F, 0xA0), 0x00AD, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180E, *range(0x200B, 0x2010),
    *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0x3164, 0xFEFF, 0xFFA0, 0xFFF9, 0xFFFA, 0xFFFB, 0xE0000, 0xE0041,
    0xE007F, 0xD800, 0xDFFF,
]  # fmt: skip


@pytest.mark.parametrize("code", INVISIBLE, ids=hex)
def test_every_invisible_character_is_shown_by_its_code_in_lines_and_escaped_in_json(code: int) -> None:
    shown = "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
    assert visible(f"a{chr(code)}b") == visible(f"a{chr(code)}b", keep_newlines=True) == f"a{shown}b"
    safe = json_safe(f'"a{chr(code)}b"')
    assert safe.isascii()
    assert safe.startswith('"a\\u')


def test_characters_beside_the_invisible_ones_and_all_that_people_write_stay_as_they_are() -> None:
    beside = "".join(map(chr, (0x20, 0x7E, 0xA0, 0xAC, 0xAE, 0x200A, 0x2010, 0x2027, 0x202F, 0x205F, 0x2070, 0xE0080)))
    for text in (beside, "naïve 日本 \U0001f600 é \u0627", "\ufffc\ufffd"):
        assert visible(text) == json_safe(text) == text
    assert visible("❤\ufe0f\ufe0e") == "❤", "it asks only for another look"


def test_control_codes_have_pictures_and_line_ends_are_one_sign_or_kept() -> None:
    assert visible("".join(map(chr, range(9)))) == "".join(map(chr, range(0x2400, 0x2409)))
    assert visible("\x1f\x0b\x0c\r") == "␟␋␌␍"
    assert visible("a\tb\r\nc\nd") == "a b↵c↵d"
    assert visible("a\tb\r\nc\nd", keep_newlines=True) == "a    b\nc\nd"
    assert visible("a\u2028b\u2029c\x85d", keep_newlines=True).count("\n") == 0, "only a newline is a line's end"


# --- cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abcd", 4, "abcd"), ("abcde", 4, "abc…"), ("ab cd", 4, "ab…"), ("ab", 1, "…"), ("ab", 0, ""), ("ab", -3, ""),
        ("", 3, ""), ("日本", 4, "日本"), ("日本語", 5, "日本…"), ("日本語", 4, "日…"), ("x" * 16, 4, "xxx…"),
    ],
)  # fmt: skip
def test_a_text_that_does_not_fit_ends_in_an_ellipsis(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abcdef", 6, "abcdef"), ("abcdefg", 6, "ab…efg"), ("abcdefg", 5, "ab…fg"), ("abc", 2, "…c"), ("abc", 1, "…"),
        ("abc", 0, ""), ("ab cdef gh", 6, "ab…gh"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_fit_keeps_both_ends_and_its_end_longest(text: str, width: int, shown: str) -> None:
    assert cut_middle(text, width) == shown


def test_a_cell_of_a_table_is_as_wide_as_it_was_asked_to_be_on_the_side_that_was_asked_for() -> None:
    assert [pad("ab", 4), pad("ab", 4, "right"), pad("abcdef", 4), pad("日", 3, "right")] == [
        "ab  ", "  ab", "abc…", " 日",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 7, ["one two", "three"]),
        ("one two three", 6, ["one", "two", "three"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("to abcdefgh", 4, ["to", "abcd", "efgh"]),
        ("a\n\nb", 9, ["a", "", "b"]),
        ("  indented text", 10, ["  indented", "text"]),
        ("abc", 0, ["a", "b", "c"]),
        ("", 5, [""]),
    ],
)
def test_lines_are_broken_at_spaces_where_there_are_any_else_anywhere(text: str, width: int, lines: list[str]) -> None:
    assert wrap(text, width) == lines


def test_a_line_of_pieces_is_cut_at_its_end_or_filled_up_on_the_side_that_was_asked_for() -> None:
    line = (("ab", "dim"), ("cd", "key"))
    assert fit(line, 6) == (*line, ("  ", ""))
    assert fit(line, 6, "right") == (("  ", ""), *line)
    assert fit(line, 4) == line
    assert fit(line, 3) == (("ab", "dim"), ("…", "key"))
    assert fit(line, 2) == (("ab", "dim"),)
    assert fit((("abc", "dim"), ("d", "key")), 2) == (("a…", "dim"),), "nothing comes after what was cut"
    assert fit(line, 0) == ()
    assert line_width((("日", ""), ("ab", ""))) == 4


def test_two_ends_of_a_line_share_it_and_the_left_one_gives_way() -> None:
    right = (("123", "dim"),)
    assert plain([between((("ab", ""),), right, 8)]) == "ab   123"
    assert plain([between((("abcdef", ""),), right, 8)]) == "abc… 123"
    assert plain([between((("abcdef", ""),), right, 2)]) == " 123"


def test_facts_flow_over_lines_with_the_gap_between_them() -> None:
    facts = [((word, ""),) for word in ("one", "two", "six")]
    assert plain(flow(facts, 15)) == "one   two   six"
    assert plain(flow(facts, 14)) == "one   two\nsix"
    assert plain(flow(facts, 8)) == "one\ntwo\nsix"
    assert plain(flow(facts, 14, gap=2)) == "one  two  six"
    assert flow([], 10) == []


def test_as_many_parts_as_fit_are_taken_and_none_after_the_first_that_does_not() -> None:
    assert as_many(["one", "two", "six"], 13) == "one  two  six"
    assert as_many(["one", "two", "six"], 12) == "one  two"
    assert as_many(["one", "too long a part", "x"], 12) == "one"
    assert as_many(["too long", "x"], 3) == ""
    assert plain([(("a ", ""), ("b  ", "")), ()]) == "a b\n"


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "--:--"), (0, "00:00"), (59.99, "00:59"), (60, "01:00"), (3599.9, "59:59"), (3600, "1:00:00"),
        (86399, "23:59:59"), (86400, "1d 00:00"), (86400 + 3 * 3600 + 4 * 60 + 59, "1d 03:04"),
    ],
)  # fmt: skip
def test_a_time_reads_as_on_a_clock(seconds: float | None, shown: str) -> None:
    assert clock(seconds) == shown


def test_figures_have_the_digits_that_tell_something() -> None:
    assert [rate(value) for value in (0, 0.04, 9.94, 9.95, 10, 999.5, 1234.5)] == [
        "0", "0.0", "9.9", "10", "10", "1,000", "1,234",
    ]  # fmt: skip
    assert [short_rate(value) for value in (9.94, 9999.4, 9999.5, 11_650, 999_949)] == [
        "9.9", "9,999", "10.0k", "11.7k", "999.9k",
    ]  # fmt: skip
    assert [short_count(value) for value in (0, 999_999, 1_000_000, 999_990_000, 10**9, 12 * 10**9)] == [
        "0", "999,999", "1.00M", "999.99M", "1.00G", "12.00G",
    ]  # fmt: skip
    assert [count(0), count(1234567)] == ["0", "1,234,567"]


def test_a_share_is_rounded_but_the_progress_of_a_run_is_never_rounded_up() -> None:
    assert [percent(value) for value in (0, 0.004, 0.125, 0.996, 1.5)] == ["0%", "0%", "12%", "100%", "150%"]
    assert [whole_percent(value) for value in (0, 0.0099, 0.29, 0.58, 0.9999, 1)] == [
        "0%", "0%", "29%", "58%", "99%", "100%",
    ]  # fmt: skip


def test_bytes_have_binary_units() -> None:
    assert [size(value) for value in (0, 1023, 2**20 - 2**10, 2**20, 2**30 - 2**20, 2**30, 80 * 2**30)] == [
        "0 KiB", "1 KiB", "1023 KiB", "1.0 MiB", "1023.0 MiB", "1.0 GiB", "80.0 GiB",
    ]  # fmt: skip
    assert [gib(2**29), gib(80 * 2**30)] == ["0.5", "80.0"]


def test_one_is_one_and_any_other_number_many() -> None:
    assert [some(number, "rank") for number in (0, 1, 2, 1234)] == ["0 ranks", "1 rank", "2 ranks", "1,234 ranks"]
    assert [some(number, "entry", "entries") for number in (0, 1, 2)] == ["0 entries", "1 entry", "2 entries"]


@pytest.mark.parametrize(
    ("model", "shown"),
    [("org/model", "model"), ("/a/b/c/", "c"), ("demo", "demo"), ("/", "/"), ("a/\x1b", "␛"), ("", "")],
)
def test_a_model_goes_by_the_last_part_of_its_name(model: str, shown: str) -> None:
    assert model_name(model) == shown
    assert cell_len(model_name(model)) == len(shown)
