"""The log: which lines match a query, however it grows and forgets; and the view, with its search, in use."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input

from rankdeck.runner import protocol
from rankdeck.runner.protocol import LogLine
from rankdeck.runner.state import LogEntry, RunState, Snapshot, apply
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.panels.log.head import said_at
from rankdeck.tui.panels.log.log_listing import LOG, LONGEST, LogPage, log_title, nothing_logged
from rankdeck.tui.panels.outputs.query import QueryError
from rankdeck.tui.panels.overview.tail import tail_lines
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Lines
from rankdeck.tui.widgets.log import LogLines, LogView
from rankdeck.tui.widgets.query_field import QueryField
from rankdeck.tui.words.text import plain
from tests import scripted
from tests.dashboards import settled, until, whole_screen
from tests.scripted_source import ScriptedSource
from tests.tui.widgets.test_outputs_view import typed

EVERYTHING = LOG.parse("")


def lines(page: LogPage, here: int | None = None) -> list[str]:
    return plain([page.line(y, here) for y in range(page.height)]).split("\n") if page.height else []


def page_of(log: tuple[LogEntry, ...], query: str = "", width: int = 60) -> LogPage:
    page = LogPage(LOG.parse(query), width)
    page.take_in(log)
    return page


def said(*texts: str, source: str = "rank 0") -> tuple[LogEntry, ...]:
    return tuple(LogEntry(source=source, text=text) for text in texts)


# --- what is listed -------------------------------------------------------------------------------

TEXTS = st.lists(st.sampled_from(["load", "a ship " * 9, "ship", "ship ship", "", "\x1b[2J [red]ship[/]"]), max_size=12)


@given(st.lists(st.tuples(TEXTS, st.integers(0, 30))), st.sampled_from(["", "ship", "ship -load rank:0", "rank:9"]))
def test_a_log_that_grows_and_forgets_is_listed_as_if_laid_out_from_scratch(
    steps: list[tuple[list[str], int]], query: str
) -> None:
    log: tuple[LogEntry, ...] = ()
    page = page_of(log, query, 30)
    for texts, kept in steps:
        before, height = lines(page), page.height
        log = (*log, *said(*texts))[-kept:] if kept else ()
        gone = page.take_in(log)
        from_scratch = page_of(log, query, 30)
        assert lines(page) == lines(from_scratch)
        assert (page.found, page.total, len(page), page.height) == (
            from_scratch.found,
            len(log),
            len(from_scratch),
            from_scratch.height,
        )
        if kept > len(texts):
            assert lines(page)[: height - gone] == before[gone:], "what is left stands above what is new"


def test_matches_are_counted_and_their_lines_are_known() -> None:
    page = page_of((*said("no", "a ship " * 9 + "ship"), *said("SHIP", source="launcher")), "ship", 30)
    assert (len(page), page.found) == (2, 11)
    for found in range(page.found):
        line = page.line(page.line_of(found), found)
        assert [text.lower() for text, style in line if style == "match-here"] == ["ship"]
        place = page.place(found)
        assert page.found_at(place) == found
        assert page.again(LOG.parse("ship"), 50).found_at(place) == found
    assert page.found_at((77, 0)) is None
    assert page.place(10)[0] == 2, "the number is that in the whole log"


def test_the_number_of_a_log_line_leads_back_to_where_it_is_listed() -> None:
    log = said(*(f"line {number}" for number in range(50)))
    few = page_of(log, "5")
    assert lines(few) == [f"rank 0      line {number}" for number in (5, 15, 25, 35, 45)]
    assert few.number_at(2) == 25
    all_of_them = few.again(EVERYTHING, 60)
    assert all_of_them.start_of(few.number_at(2)) == 25
    assert few.start_of(26) == 3, "else the next one that is listed"
    assert few.start_of(49) == few.height
    assert page_of(()).number_at(0) == 0


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("rank:1", ["one"]),
        ("rank:0-1", ["none", "one"]),
        ("source:launch", ["two"]),
        ("source:RANK", ["none", "one"]),
        ("one -rank:0", ["one"]),
        ("text:t", ["two"]),
        ("rank 1", []),
    ],
)
def test_log_lines_are_filtered_by_rank_source_and_words(query: str, found: list[str]) -> None:
    log = (*said("none"), *said("one", source="rank 1"), *said("two", source="launcher"))
    assert [text.split()[-1] for text in lines(page_of(log, query))] == found


def test_a_query_for_what_log_lines_do_not_have_is_refused() -> None:
    with pytest.raises(QueryError, match="tokens: is none of rank, source, text"):
        LOG.parse("tokens:>3")


def test_an_endless_line_is_cut() -> None:
    page = page_of(said("x" * 100_000))
    assert "".join(line[12:] for line in lines(page)) == "x" * LONGEST + "…"


def test_the_title_says_how_many_lines_of_which_query() -> None:
    log = said("one", "two")

    def title(query: str, width: int, *, following: bool = True) -> str:
        return plain([log_title(page_of(log, query), following=following, width=width)])

    assert title("", 60) == "2 lines, following the newest"
    assert title("", 60, following=False) == "2 lines"
    assert title("two [red]", 60) == "2 lines, 0 shown: two [red]; following the newest"
    assert title("two", 30) == "2 lines, 1 shown: two"
    assert title("two" * 30, 30) == "2 lines, 0 shown: twotw…twotwo"
    assert nothing_logged(page_of(log, "zzz"), 60) == "no line matches zzz; esc clears"
    assert nothing_logged(page_of(()), 60) == "what the supervisor and the ranks say"


# --- when it was said -----------------------------------------------------------------------------

LATE = LogEntry(source="rank 1", text="a ship at 00:42", moment=50.9)
EARLY = LogEntry(source="launcher", text="launched " * 8 + "so", moment=0.4)
UNKNOWN = LogEntry(source="rank 0", text="who knows when")


def test_each_line_has_its_time_counted_from_the_first_batch_as_in_the_timeline() -> None:
    page = page_of((EARLY, LATE, UNKNOWN), width=75)
    text = "launched launched launched launched launched launched"
    assert lines(page)[0] == f"   00:00  launcher    {text}", "from the start, until there is a first batch"
    page.first_batch = 8.5
    assert lines(page) == [
        f"  -00:09  launcher    {text}",
        "                      launched launched so",
        "   00:42  rank 1      a ship at 00:42",
        "          rank 0      who knows when",
    ]
    assert page.line(2, None)[0] == ("   00:42  ", "dim")
    assert lines(page.again(LOG.parse("ship"), 75)) == ["   00:42  rank 1      a ship at 00:42"]


@pytest.mark.parametrize(
    ("moment", "said"),
    [(8.5, "00:00"), (8.4, "-00:01"), (3700.0, "1:01:31"), (100_000.0, "1d 03:46"), (None, "")],
)
def test_times_are_as_short_as_the_clock_in_the_header(moment: float | None, said: str) -> None:
    assert said_at(LogEntry(source="rank 0", text="", moment=moment), 8.5) == said


def test_a_narrow_line_has_no_time_and_none_is_matched() -> None:
    text = "word " * 20
    wide, narrow = (page_of(said(text), width=width) for width in (62, 61))
    assert lines(wide)[0] == f"{'':10}rank 0      word word word word word word word word"
    assert lines(narrow)[0] == "rank 0      " + "word " * 9 + "word", "it had less than 40 cells"
    assert page_of((EARLY, LATE), "00:4", 75).found == 1, "the one in the text"
    assert page_of((EARLY, LATE), "00:00", 75).found == 0


def test_the_newest_lines_below_the_overview_have_times_too() -> None:
    shown = plain(tail_lines(scripted.loading().state, (), 100, 9)).split("\n")
    assert shown == [
        "   00:00  supervisor  run calm-harbour, 100 prompts",
        "   00:00  supervisor  no GPU figures: no NVIDIA driver library (libnvidia-ml.so.1) on this machine",
        "   00:00  launcher    accelerate launch with 2 ranks",
        "   00:05  rank 0      loading weights from model.safetensors",
    ]


def test_the_times_of_a_resumed_run_go_on_where_they_stopped() -> None:
    script = scripted.running()
    script.log("rank 0", "before")
    script.wait(7200)
    taken_up = protocol.RunTakenUp(config=scripted.config(2), completed=64, failed=0, prompt_tokens=9, output_tokens=9)
    script.add(taken_up).wait(1).log("supervisor", "after")
    before, after = script.state.log[-2:]
    assert (before.text, after.text) == ("before", "after")
    assert before.moment is not None
    assert after.moment == pytest.approx(before.moment + 1)


def test_a_line_without_a_time_is_read_too() -> None:
    line = msgspec.json.decode(b'{"type":"log_line","source":"rank 0","text":"once upon a time"}', type=LogLine)
    assert apply(RunState(), line).log[0].moment is None
    state = b'{"log":[{"type":"log_line","at":1790000000.0,"source":"rank 0","text":"of an older supervisor"}]}'
    snapshot = msgspec.json.decode(b'{"type":"snapshot","state":' + state + b"}", type=Snapshot)
    assert lines(page_of(snapshot.state.log, width=75)) == ["          rank 0      of an older supervisor"]


# --- the view -------------------------------------------------------------------------------------


async def opened(pilot: Pilot[Any]) -> LogLines:
    await settled(pilot)
    await pilot.press("5")
    await pilot.pause()
    return pilot.app.screen.query_one(LogLines)


def logged(number: int = 200) -> tuple[RankdeckApp, ScriptedSource]:
    """A run with `number` log lines; every tenth is a warning."""
    script = scripted.running()
    for line in range(number):
        text = f"warning {line}: a ship is late, a ship" if line % 10 == 0 else f"line {line}"
        script.log(f"rank {line % 2}", text)
    source = ScriptedSource(script.events)
    return RankdeckApp(source), source


def above(app: RankdeckApp) -> str:
    title = app.screen.query_one(LogView)._border_title
    return title.plain if title is not None else ""


def below(app: RankdeckApp) -> str:
    title = app.screen.query_one(LogView)._border_subtitle
    return title.plain if title is not None else ""


def top_line(log: LogLines) -> str:
    return plain([log.page.line(log.scroll_offset.y, None)])


async def test_the_log_is_filtered_while_typing_and_enter_keeps_the_filter() -> None:
    app, source = logged()
    async with app.run_test(size=(80, 24)) as pilot:
        log = await opened(pilot)
        assert "/ find" in below(app)
        assert "following the newest" in above(app)
        await pilot.press("slash", *typed("ship rank:0"))
        await pilot.pause()
        assert len(log.page) == 20
        assert "20 shown: ship rank:0" in above(app)
        assert "enter keeps it" in below(app)
        await pilot.press("enter")
        await pilot.pause()
        assert not app.screen.query_one(QueryField).opened
        assert app.focused is log
        assert below(app) == "40 matches, n goes there  n next  N before  esc clears"
        source.say(LogLine(source="rank 0", text="the ship is here"), LogLine(source="rank 0", text="calm"))
        await until(pilot, lambda: len(log.page) == 21)
        await pilot.pause()
        assert "the ship is here" in whole_screen(app), "it follows what is filtered"
        await pilot.press("slash")
        assert app.screen.query_one("LogView Input", Input).value == "ship rank:0"
        await pilot.press("escape")
        await pilot.pause()
        assert len(log.page) == log.page.total
        assert log.following
        assert isinstance(app.screen, RunScreen)


async def test_n_goes_from_match_to_match_and_clearing_shows_the_lines_around() -> None:
    app, _ = logged()
    async with app.run_test(size=(80, 24)) as pilot:
        log = await opened(pilot)
        await pilot.press("n")
        await pilot.pause()
        assert "Nothing is searched for; / begins." in [toast.message for toast in app._notifications]
        await pilot.press("slash", *typed("ship"), "enter", "g", "n")
        await pilot.pause()
        assert log.here == 0
        assert "match 1 of 40" in below(app)
        await pilot.press("n", "n", "n", "N")
        await pilot.pause()
        assert log.here == 2
        await pilot.press(*["n"] * 60)
        await pilot.pause()
        assert log.here == 39, "there is none beyond the last"
        await pilot.press(*["N"] * 29)
        await pilot.pause()
        assert log.here == 10
        row = log.page.line_of(10) - log.scroll_offset.y
        assert 0 <= row < log.size.height
        await pilot.press("escape")
        await pilot.pause()
        shown = whole_screen(app)
        assert "warning 50" in shown
        assert "line 49" in shown
        assert "line 51" in shown, "and not the newest"
        assert log.here is None


@pytest.mark.parametrize("key", ["n", "N"])
async def test_the_first_match_gone_to_is_a_visible_one(key: str) -> None:
    app, _ = logged()
    async with app.run_test(size=(80, 24)) as pilot:
        log = await opened(pilot)
        await pilot.press("slash", *typed("a"), "enter")
        await pilot.pause()
        assert log.following
        await pilot.press("G", key)
        await pilot.pause()
        assert log.here is not None
        assert log.scroll_offset.y == log.max_scroll_y
        assert log.scroll_offset.y <= log.page.line_of(log.here) < log.scroll_offset.y + log.size.height


async def test_the_scrollbar_shows_the_position() -> None:
    app, _ = logged()
    async with app.run_test(size=(80, 24)) as pilot:
        log = await opened(pilot)
        assert log.vertical_scrollbar.position == log.max_scroll_y > 0
        await pilot.press("slash", *typed("ship"))
        await pilot.pause()
        assert log.vertical_scrollbar.position == log.max_scroll_y


async def test_while_typing_the_line_of_keys_has_the_fields_keys_and_no_letters() -> None:
    app, _ = logged()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("slash")
        await pilot.pause()
        assert plain(app.screen.query_one(KeyBar).lines).strip() == "f1 Help  esc Clear  tab To the list"
        await pilot.press("escape")
        await pilot.pause()
        assert "space Pause" in plain(app.screen.query_one(KeyBar).lines)


async def test_a_mistake_is_shown_and_the_field_stays_open() -> None:
    app, _ = logged()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("slash", *typed("rank:x"), "enter")
        await pilot.pause()
        assert below(app).startswith("✗ rank:x: x is no number")
        assert app.screen.query_one(QueryField).opened


async def test_scrolled_up_the_visible_lines_stay_while_new_ones_come_and_old_ones_go() -> None:
    app, source = logged(1000)
    async with app.run_test(size=(80, 24)) as pilot:
        log = await opened(pilot)
        await pilot.press("pageup", "pageup", "k", "up")
        await pilot.pause()
        assert "following" not in above(app)
        read = top_line(log)
        source.say(*(LogLine(source="rank 0", text=f"more {number}") for number in range(40)))
        await until(pilot, lambda: bool(app.followed.state.log[-1].text == "more 39"))
        await settled(pilot)
        assert log.page.total == 1000
        assert top_line(log) == read
        await pilot.resize_terminal(100, 30)
        await pilot.pause()
        assert top_line(log) == read
        await pilot.press("G")
        await pilot.pause()
        assert "more 39" in whole_screen(app)
        assert "following" in above(app)


async def test_a_match_stays_marked_while_others_are_forgotten() -> None:
    app, source = logged(1000)
    async with app.run_test(size=(80, 24)) as pilot:
        log = await opened(pilot)
        await pilot.press("slash", *typed("ship"), "enter", "n", "n")
        await pilot.pause()
        here = log.here
        assert here is not None
        marked = plain([log.page.line(log.page.line_of(here), here)])
        source.say(*(LogLine(source="rank 0", text=f"more {number}") for number in range(25)))
        await until(pilot, lambda: bool(app.followed.state.log[-1].text == "more 24"))
        await settled(pilot)
        now = log.here
        assert now is not None
        assert now < here
        assert plain([log.page.line(log.page.line_of(now), now)]) == marked


async def test_only_visible_lines_are_laid_out_and_only_once() -> None:
    app, _ = logged(1000)
    async with app.run_test(size=(80, 24)) as pilot:
        log = await opened(pilot)
        page = log.page
        await pilot.press("1")
        await pilot.pause()
        await pilot.press("5")
        await pilot.pause()
        assert log.page is page, "shown again as large as it was, it is as it was"


async def test_a_hostile_line_and_query_are_data() -> None:
    app, source = logged(3)
    evil = "[red]x[/] \x1b[2J\x07 \u202e @click=app.quit"
    async with app.run_test(size=(120, 40)) as pilot:
        log = await opened(pilot)
        source.say(LogLine(source="rank [b]", text=evil))
        app.screen.query_one(QueryField).ask('"[red]x[/] "')
        await until(pilot, lambda: '1 shown: "[red]x[/] "' in above(app))
        assert len(log.page) == 1
        await pilot.pause()
        shown = whole_screen(app)
        assert "rank [b]" in shown
        assert "[red]x[/] ␛[2J␇ ⟨U+202E⟩ @click=app.quit" in shown
        assert not set(shown) & set("\x1b\x07\u202e")


async def test_every_key_of_the_log_is_in_the_help() -> None:
    app, _ = logged()
    async with app.run_test(size=(120, 60)) as pilot:
        await opened(pilot)
        await pilot.press("question_mark")
        await pilot.pause()
        helped = plain(app.screen.query_one("#help-lines", Lines).lines)
        for words in ("Find in the log", "The next thing found in the log", "All lines again", "who wrote a line"):
            assert words in helped


async def test_a_log_of_thousands_of_long_lines_is_searched_at_once() -> None:
    """By counting, not by a clock: a query lays out no more lines than the log has, and paints the visible ones."""
    script = scripted.running()
    for number in range(3000):
        script.add(protocol.LogLine(source="rank 0", text=f"line {number} " + "and so on " * 40))
    app = RankdeckApp(ScriptedSource(script.events))
    async with app.run_test(size=(80, 24)) as pilot:
        log = await opened(pilot)
        assert log.page.total == 1000
        await pilot.press("slash", *typed("on"), "enter", "n")
        await pilot.pause()
        assert log.page.found == 40_000
        assert "match" in below(app)
