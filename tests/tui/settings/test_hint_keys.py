"""Hints name the user's keys, not the default ones."""

import re

import pytest
from textual.widgets import Button

from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.app.declared_keys import declared
from rankdeck.tui.panels.overview.advice import advice_lines
from rankdeck.tui.panels.overview.notice import notice_lines
from rankdeck.tui.panels.sweep.status import empty_lines
from rankdeck.tui.screens.questions import LeaveScreen, Question
from rankdeck.tui.settings.hint_keys import HINTED, PALETTE, key_of, named, shown
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.words.text import plain
from tests import ROOT, scripted, scripted_steering
from tests.dashboards import ScriptedLauncher, until, whole_screen


@pytest.mark.parametrize(
    ("key", "words"),
    [("space", "space"), ("escape", "esc"), ("slash", "/"), ("full_stop", "."), ("ctrl+o", "ctrl+o"), ("f3", "f3"),
     ("enter", "enter"), ("X", "X"), ("left_square_bracket", "["), ("plus", "+"), ("+", "+"), ("ctrl+up", "ctrl+↑")],
)  # fmt: skip
def test_a_key_has_its_usual_name(key: str, words: str) -> None:
    assert shown(key) == words


def test_a_hint_names_the_users_first_key_and_else_the_default_one() -> None:
    hint = "{run.pause} goes on, {run.advice} tells more"
    assert named(hint) == "space goes on, i tells more"
    assert named(hint, {"run.pause": "p,ctrl+up"}) == "p goes on, i tells more"


@pytest.mark.parametrize("keys", ["", ",", " "])
def test_for_an_action_without_a_key_a_hint_names_the_palette(keys: str) -> None:
    assert key_of("run.pause", {"run.pause": keys}) == PALETTE == "the palette (ctrl+p)"


def test_braces_that_name_no_binding_stay_as_they_are() -> None:
    assert named("{} {0} {x} {no dot} {{run}}") == "{} {0} {x} {no dot} {{run}}"
    with pytest.raises(KeyError):
        named("{run.nothing} does nothing")


def test_every_key_that_a_hint_names_belongs_to_its_binding() -> None:
    bindings = [one for one in declared() if one.binding.id in HINTED]
    assert {one.binding.id for one in bindings} == set(HINTED)
    assert [one for one in bindings if HINTED[one.binding.id or ""] not in one.keys] == []


def test_every_binding_that_a_hint_names_is_known() -> None:
    sources = [path.read_text() for path in (ROOT / "tui").rglob("*.py")]
    # f-strings also have dots within braces: only names of bindings count.
    used = {found for source in sources for found in re.findall(r"\{([a-z_]+\.[a-z_]+)\}", source)}
    asked = {found for source in sources for found in re.findall(r'key_of\(["\']([a-z_.]+)["\']', source)}
    options = {option.id for question in Question.__subclasses__() for option in question.OPTIONS}
    ids = {one.binding.id for one in declared()}
    assert asked | options | {name for name in used if name in ids} == set(HINTED)


def test_lines_over_a_run_follow_the_keys() -> None:
    keys = {"run.pause": "p", "run.advice": "question_mark", "run.sweep": "w"}
    assert "p goes on" in plain(notice_lines(scripted_steering.paused().state, 80, keys))
    state = scripted_steering.advice().state
    assert plain(advice_lines(state, 60)).endswith(" i all of it")
    assert plain(advice_lines(state, 60, keys)).endswith(" ? all of it")
    assert "\nw  starts one" in plain(empty_lines(scripted.running().state, 80, keys))


async def test_the_start_screen_its_dialogs_and_the_doctor_follow_the_keys() -> None:
    preferences = Preferences(keys={"start.file": "f6", "files.close": "x", "files.hidden": "left_square_bracket",
                               "doctor.again": "a"})  # fmt: skip
    app = RankdeckApp(None, launcher=ScriptedLauncher(), preferences=preferences)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "f6 chooses one" in whole_screen(app))
        await pilot.press("f6")
        await until(pilot, lambda: "[ hidden" in whole_screen(app))
        assert "x closes" in whole_screen(app)
        await pilot.press("x")
        await until(pilot, lambda: "[ hidden" not in whole_screen(app))
        await pilot.press("f2")
        await until(pilot, lambda: "a looks again, esc closes" in whole_screen(app))


async def test_the_buttons_of_a_question_follow_the_keys() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(), preferences=Preferences(keys={"leave.stop": "w"}))
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(LeaveScreen())
        await pilot.pause()
        labels = [str(button.label) for button in app.screen.query(Button)]
        assert labels == ["Stop (w)", "Detach (d)", "Stay (esc)"]
