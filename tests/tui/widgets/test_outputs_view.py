"""The Outputs view in use: every key, the mouse, and hostile answers."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from textual.events import Key, MouseScrollUp
from textual.pilot import Pilot
from textual.widgets import Input

from rankdeck.runner import protocol
from rankdeck.runner.protocol import OutputRecord
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.screens.answer import AnswerScreen
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.terminal import pager
from rankdeck.tui.terminal.clipboard import MOST_BYTES
from rankdeck.tui.widgets.answer_list import AnswerList
from rankdeck.tui.widgets.answer_text import AnswerText
from rankdeck.tui.widgets.lines import Lines
from rankdeck.tui.widgets.outputs import OutputsView
from rankdeck.tui.widgets.query_field import QueryField
from rankdeck.tui.words.text import plain
from tests import scripted, scripted_sweep
from tests.dashboards import settled, until, whole_screen
from tests.scripted import Script
from tests.scripted_source import ScriptedSource
from tests.scripted_sweep import SweepScript

NAMES = {" ": "space", ":": "colon", ">": "greater_than_sign", "-": "minus", '"': "quotation_mark", "#": "number_sign"}


def typed(text: str) -> list[str]:
    return [NAMES.get(character, character) for character in text]


def outputs(extra: list[OutputRecord] | None = None, **options: Any) -> tuple[RankdeckApp, ScriptedSource]:
    """The dashboard of a run with 64 answers of ranks 0 and 1, and the `extra` ones."""
    script = scripted.running()
    for record in extra or []:
        script.add(protocol.Output(record=record))
    source = ScriptedSource(script.events)
    return RankdeckApp(source, **options), source


@pytest.mark.parametrize("first", ["v", "E"])
async def test_a_key_that_comes_together_with_another_is_for_what_that_one_opens(first: str) -> None:
    """As over a slow line: x, which would stop the run, is not for the run's screen any more."""
    app, source = outputs()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        for key in (first, "x"):
            app.post_message(Key(key, key))
        await until(pilot, lambda: not isinstance(app.screen, RunScreen))
        await pilot.pause()
        assert source.sent == []


async def opened(pilot: Pilot[Any]) -> AnswerList:
    await settled(pilot)
    await pilot.press("2")
    await pilot.pause()
    return pilot.app.screen.query_one(AnswerList)


def kept() -> Script:
    """A sweep that keeps its answers, before the first one."""
    return SweepScript(scripted_sweep.plan([4, 8], [1, 2], outputs=True)).begun()


def title(app: RankdeckApp) -> str:
    return str(app.screen.query_one("#answers-box").border_title)


def below(app: RankdeckApp) -> str:
    content = app.screen.query_one("#answers-box")._border_subtitle
    return content.plain if content is not None else ""


def said(app: RankdeckApp) -> str:
    return " ".join(f"{toast.title} {toast.message}" for toast in app._notifications)


def answer(app: RankdeckApp) -> str:
    return plain(app.screen.query_one(AnswerText).query_one(Lines).lines)


FAILED = replace(
    scripted.record(90, rank=1, text=""), finish_reason="error", error="CUDA out of memory", output_tokens=0
)
LONG = scripted.record(91, rank=0, text="needle in hay\n" * 60)

# --- filter ---------------------------------------------------------------------------------------


async def test_the_list_is_filtered_while_typing_and_enter_keeps_the_filter() -> None:
    app, _ = outputs()
    async with app.run_test(size=(120, 40)) as pilot:
        answers = await opened(pilot)
        await pilot.press("slash", *typed("grandmother rank:0"))
        await pilot.pause()
        shown = [answers.selection.at(position) for position in range(len(answers.selection))]
        assert shown
        assert all(record.rank == 0 and "grandmother" in record.prompt for record in shown if record)
        assert f"64 answers, {len(shown)} shown: grandmother rank:0; as they came, following" in title(app)
        assert "enter keeps it" in below(app)
        await pilot.press("enter")
        assert not app.screen.query_one(QueryField).opened
        assert app.focused is answers
        assert "grandmother rank:0" in title(app)
        await pilot.press("up")
        assert answers.cursor == shown[-2].index  # type: ignore[union-attr]
        assert "[reverse]" not in answer(app)
        assert "My grandmother kept the storm" in answer(app)


async def test_escape_clears_the_filter_in_the_field_and_in_the_list() -> None:
    app, _ = outputs()
    async with app.run_test(size=(80, 24)) as pilot:
        answers = await opened(pilot)
        await pilot.press("slash", *typed("robot"), "escape")
        await pilot.pause()
        assert (len(answers.selection), app.focused) == (64, answers)
        await pilot.press("slash", *typed("robot"), "enter")
        await pilot.pause()
        assert len(answers.selection) == 10
        await pilot.press("slash")
        assert app.screen.query_one("QueryField Input", Input).value == "robot"
        await pilot.press("down", "escape")
        await pilot.pause()
        assert len(answers.selection) == 64
        assert isinstance(app.screen, RunScreen)


async def test_a_mistake_is_shown_at_the_field_which_stays_open() -> None:
    app, _ = outputs()
    async with app.run_test(size=(80, 24)) as pilot:
        answers = await opened(pilot)
        await pilot.press("slash", *typed("robot rank:x"))
        await pilot.pause()
        assert below(app) == "✗ rank:x: x is no number; write rank:1 or rank:0-3"
        assert len(answers.selection) == 10, "what else was asked for still holds"
        await pilot.press("enter")
        assert app.screen.query_one(QueryField).opened
        await pilot.press("backspace", "1")
        await pilot.pause()
        assert "✗" not in below(app)
        await pilot.press("enter")
        assert not app.screen.query_one(QueryField).opened


async def test_keys_of_the_run_are_letters_while_a_query_is_typed() -> None:
    app, source = outputs()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("slash", *typed("x -q [d] +2 ?"))
        await pilot.pause()
        assert app.screen.query_one("QueryField Input", Input).value == "x -q [d] +2 ?"
        assert isinstance(app.screen, RunScreen)
    assert source.sent == []


async def test_a_new_answer_is_listed_if_it_matches() -> None:
    app, source = outputs()
    async with app.run_test(size=(80, 24)) as pilot:
        answers = await opened(pilot)
        await pilot.press("slash", *typed("needle"), "enter")
        await pilot.pause()
        assert "no answer matches needle; esc clears" in whole_screen(app)
        source.say(protocol.Output(record=LONG), protocol.Output(record=scripted.record(92)))
        await until(pilot, lambda: len(app.followed.book) == 66)
        await settled(pilot)
        assert (len(answers.selection), answers.cursor) == (1, 91)
        assert "needle in hay" in answer(app)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (scripted_sweep.before_the_ranks, "trials throw answers away; 4 shows what they measured"),
        (scripted_sweep.running, "trials throw answers away; 4 shows what they measured"),
        (scripted_sweep.settled, "trials throw answers away; 4 shows what they measured"),
        (kept, "answers are listed here as they arrive"),
        (scripted.loading, "answers are listed here as they arrive"),
    ],
)
async def test_a_sweep_that_keeps_no_answers_says_so(script: Callable[[], Script], said: str) -> None:
    app = RankdeckApp(ScriptedSource(script().events))
    async with app.run_test(size=(60, 18)) as pilot:
        await opened(pilot)
        assert said in whole_screen(app)


async def test_e_lists_only_errors_and_all_again() -> None:
    app, _ = outputs([FAILED, LONG])
    async with app.run_test(size=(80, 24)) as pilot:
        answers = await opened(pilot)
        await pilot.press("e")
        await pilot.pause()
        assert (len(answers.selection), answers.cursor) == (1, 90)
        assert "CUDA out of memory" in answer(app)
        assert "finish:error" in title(app)
        await pilot.press("e")
        await pilot.pause()
        assert len(answers.selection) == 66
        await pilot.press("slash", *typed("rank:1"), "enter", "e")
        await pilot.pause()
        assert "rank:1 finish:error" in title(app)


async def test_n_goes_from_match_to_match_and_on_to_the_next_answer() -> None:
    needles = [scripted.record(number, text="hay\n" * 40 + "a needle, a needle") for number in (93, 94)]
    app, _ = outputs(needles)
    async with app.run_test(size=(80, 24)) as pilot:
        answers = await opened(pilot)
        await pilot.press("n")
        await pilot.pause()
        assert "Nothing is searched for" in said(app)
        await pilot.press("slash", *typed("needle"), "enter", "home")
        await pilot.pause()
        text = app.screen.query_one(AnswerText)
        assert (answers.cursor, text.found, text.here) == (93, 2, None)
        await pilot.press("n", "n")
        await pilot.pause()
        assert (text.here, text.border_subtitle) == (1, "match 2 of 2")
        assert text.scroll_offset.y > 0, "the match is in sight"
        await pilot.press("n")
        assert (answers.cursor, text.here) == (94, 0)
        await pilot.press("N")
        assert (answers.cursor, text.here) == (93, 1)


# --- the list -------------------------------------------------------------------------------------


async def test_a_click_selects_a_row_and_a_double_click_opens_it() -> None:
    app, _ = outputs()
    async with app.run_test(size=(80, 24)) as pilot:
        answers = await opened(pilot)
        await pilot.click(AnswerList, offset=(10, 2))
        top = answers.scroll_offset.y
        assert answers.cursor == answers.selection.listing.key(top + 2, "arrival")
        await pilot.double_click(AnswerList, offset=(10, 1))
        await pilot.pause()
        assert isinstance(app.screen, AnswerScreen)


async def test_after_scrolling_by_the_wheel_a_new_answer_does_not_move_the_list() -> None:
    app, source = outputs()
    async with app.run_test(size=(80, 24)) as pilot:
        answers = await opened(pilot)
        for _ in range(4):
            await pilot._post_mouse_events([MouseScrollUp], AnswerList)
        await pilot.pause()
        assert not answers.following
        before = answers.scroll_offset.y
        assert before < answers.max_scroll_y
        source.say(protocol.Output(record=LONG))
        await until(pilot, lambda: len(app.followed.book) == 65)
        await settled(pilot)
        assert answers.scroll_offset.y == before


async def test_a_wide_terminal_has_the_answer_beside_the_list() -> None:
    app, _ = outputs()
    async with app.run_test(size=(200, 60)) as pilot:
        await opened(pilot)
        await pilot.pause()
        assert app.screen.query_one("#answer").region.y == app.screen.query_one("#answers-box").region.y
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        assert app.screen.query_one("#answer").region.y > app.screen.query_one("#answers-box").region.y


@pytest.mark.parametrize("size", [(60, 18), (80, 24), (120, 40), (200, 60)])
async def test_an_answer_can_be_read_at_every_size(size: tuple[int, int]) -> None:
    app, _ = outputs([LONG])
    async with app.run_test(size=size) as pilot:
        await opened(pilot)
        await pilot.pause()
        assert "needle in hay" in answer(app)
        box = app.screen.query_one(AnswerText)
        assert box.region.bottom <= size[1] - 1
        seen = whole_screen(app).splitlines()[box.region.y : box.region.bottom]
        assert any("needle in hay" in line[box.region.x :] for line in seen)


# --- the whole answer -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["v", "enter"])
async def test_an_answer_fills_the_screen_and_the_others_are_a_key_away(key: str) -> None:
    app, _ = outputs([LONG])
    async with app.run_test(size=(80, 24)) as pilot:
        answers = await opened(pilot)
        await pilot.press(key)
        await pilot.pause()
        assert isinstance(app.screen, AnswerScreen)
        text = app.screen.query_one(AnswerText)
        assert "65 of 65" in str(text.border_title)
        assert "#91" in answer(app)
        await pilot.press("down", "j", "j", "k")
        assert text.scroll_offset.y == 2
        await pilot.press("end")
        assert text.scroll_offset.y == text.max_scroll_y
        await pilot.press("g", "left", "h", "right")
        await pilot.pause()
        assert "64 of 65" in str(text.border_title)
        await pilot.press("question_mark")
        await pilot.pause()
        assert "Copy the whole record" in whole_screen(app)
        await pilot.press("escape", "escape")
        await pilot.pause()
        assert isinstance(app.screen, RunScreen)
        assert (answers.cursor, answers.following) == (63, False)


async def test_the_scrollbar_hides_nothing_of_an_answer() -> None:
    words = " ".join(f"word-{number}" for number in range(400))
    app, _ = outputs([scripted.record(92, text=words)])
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("v")
        await pilot.pause()
        text, seen = app.screen.query_one(AnswerText), ""
        for _ in range(40):
            seen += whole_screen(app)
            await pilot.press("pagedown")
            await pilot.pause()
        assert text.scroll_offset.y == text.max_scroll_y
        assert all(f"word-{number} " in seen for number in range(400))


# --- copy and pager -------------------------------------------------------------------------------


async def copied(app: RankdeckApp, pilot: Pilot[Any], key: str) -> str:
    written: list[str] = []
    driver = app._driver
    assert driver is not None
    driver.write = written.append  # type: ignore[method-assign]
    await pilot.press(key)
    await pilot.pause()
    codes = [part for part in written if part.startswith("\x1b]52;c;")]
    return base64.b64decode(codes[-1].removeprefix("\x1b]52;c;").removesuffix("\a")).decode() if codes else ""


async def test_y_copies_the_answer_and_shift_y_the_record() -> None:
    evil = "\x1b]52;c;evil\a [red] \x00 ok"
    app, _ = outputs([scripted.record(95, rank=1, text=f" {evil} ")])
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert await copied(app, pilot, "y") == evil
        assert "The answer of #95" in said(app)
        assert "must allow OSC 52" in said(app)
        assert json.loads(await copied(app, pilot, "Y"))["index"] == 95


async def test_a_text_too_long_to_copy_is_refused_with_other_ways() -> None:
    app, _ = outputs([scripted.record(95, text="x" * (MOST_BYTES + 1))])
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert await copied(app, pilot, "y") == ""
        assert "p opens it in the pager" in said(app)


def test_the_pager_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("less", "my pager"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pager.pager_command({}) == ["less"]
    assert pager.pager_command({"PAGER": "less -S --tabs 4"}) == ["less", "-S", "--tabs", "4"]
    assert pager.pager_command({"PAGER": "'my pager' -x"}) == ["my pager", "-x"]
    for wrong, said in (("nosuch -R", "no program 'nosuch'"), ("less '", "No closing quotation")):
        with pytest.raises(pager.PagerError, match=said):
            pager.pager_command({"PAGER": wrong})
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(pager.PagerError, match="set PAGER"):
        pager.pager_command({})


def test_less_does_not_quit_at_once() -> None:
    assert pager.pager_environ({"LESS": "FRX"})["LESS"] == "FRX -+F"
    assert pager.pager_environ({"LESS": "-R"})["LESS"] == "-R"
    assert "LESS" not in pager.pager_environ({})


async def test_without_a_terminal_for_it_the_pager_says_so() -> None:
    app, _ = outputs()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("p")
        await pilot.pause()
        assert "No pager" in said(app)


# --- hostile --------------------------------------------------------------------------------------


async def test_a_query_is_never_taken_for_markup() -> None:
    app, _ = outputs()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        app.screen.query_one(QueryField).ask("[red]not markup[/red] \x1b[2J")
        await pilot.pause()
        assert "[red]not markup[/red] ␛[2J" in whole_screen(app)
        assert "\x1b" not in whole_screen(app)


async def test_every_key_is_in_the_help() -> None:
    app, _ = outputs()
    async with app.run_test(size=(120, 60)) as pilot:
        await opened(pilot)
        bindings = [binding for _, binding in app.screen.query_one(OutputsView)._bindings]
        await pilot.press("question_mark")
        await pilot.pause()
        help_lines = plain(app.screen.query_one("#help-lines", Lines).lines)
        for binding in bindings:
            assert binding.id
            assert binding.tooltip
            assert binding.tooltip.split()[0] in help_lines
