"""The user's preferences: the file is strict, flags win, a choice made in the dashboard is remembered."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from rankdeck.tui.app import declared_keys
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.settings import preferences, remembered
from rankdeck.tui.settings.preferences import PreferenceError, Preferences
from rankdeck.tui.settings.remembered import Remembered
from tests import scripted
from tests.dashboards import settled
from tests.scripted_source import ScriptedSource
from tests.terminal import Terminal

RANKDECK = str(Path(sys.executable).with_name("rankdeck"))


def write(text: str) -> Path:
    file = preferences.path()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_without_a_file_the_defaults_apply() -> None:
    assert preferences.load(declared_keys.problems) == Preferences(theme=None, notify="bell", title=True, keys={})


def test_the_file_is_read_and_flags_win() -> None:
    write('theme = "nord"\nascii = true\nnotify = "osc9"\ntitle = false\n[keys]\n"run.pause" = "f6"\n')
    wanted = Preferences(theme="nord", ascii=True, notify="osc9", title=False, keys={"run.pause": "f6"})
    assert preferences.load(declared_keys.problems) == wanted
    loaded = preferences.load(declared_keys.problems, theme="rankdeck-light", ascii=False)
    assert (loaded.theme, loaded.ascii, loaded.notify) == ("rankdeck-light", False, "osc9")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("them = 'nord'", "them: there is no such setting; did you mean theme?"),
        ("theme = 'nrd'", "theme: there is no theme 'nrd'; did you mean nord"),
        ("theme = 3", "theme: there is no theme 3; there are rankdeck-dark, rankdeck-light,"),
        ("ascii = 1", "ascii: must be true or false, not 1"),
        ("notify = 'mail'", 'notify: must be "off", "bell" or "osc9", not \'mail\''),
        ("keys = 3", "keys: must be a table"),
        ("[keys]\n'run.stopp' = 'k'", '[keys] "run.stopp": there is no such id; did you mean run.stop'),
        ("[keys]\n'run.stop' = 'q'", '[keys] "run.stop": q is the key of "app.leave" already'),
        ("theme =", "is no TOML"),
    ],
)
def test_an_invalid_preference_is_named_with_the_file_and_what_to_do(text: str, said: str) -> None:
    file = write(text)
    with pytest.raises(PreferenceError) as error:
        preferences.load(declared_keys.problems)
    assert f"{file}: {said}" in str(error.value)


def test_all_problems_are_reported_at_once() -> None:
    write("ascii = 1\ntitle = 2\ncolour = 3")
    with pytest.raises(PreferenceError) as error:
        preferences.load(declared_keys.problems)
    assert len(str(error.value).splitlines()) == 3


def test_an_unknown_theme_on_the_command_line_is_refused() -> None:
    with pytest.raises(PreferenceError, match="--theme: there is no theme 'rankdeck-drak'; did you mean rankdeck-dark"):
        preferences.load(declared_keys.problems, theme="rankdeck-drak")


def test_before_anything_starts_a_wrong_file_ends_with_status_2() -> None:
    file = write("theme = 'nrd'")
    with Terminal([RANKDECK, "replay", "--sample"], columns=200) as terminal:
        assert terminal.wait(30) == 2
        assert f"rankdeck: {file}: theme: there is no theme" in terminal.text
        assert b"\x1b[?1049h" not in bytes(terminal.raw)


def test_a_flag_before_the_command_is_not_silently_lost() -> None:
    with Terminal([RANKDECK, "--ascii", "replay", "--sample"], columns=120) as terminal:
        assert terminal.wait(30) == 2
        assert "go after the command: rankdeck replay --ascii" in terminal.text


@pytest.mark.parametrize(
    ("environ", "only"),
    [
        ({}, False),
        ({"LANG": "en_GB.UTF-8"}, False),
        ({"LANG": "C.utf8"}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, True),
        ({"LANG": "C"}, True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, True),  # as Python leaves it
        ({"LANG": "en_GB.UTF-8", "LC_ALL": "POSIX"}, True),
        ({"LANG": "C", "LC_CTYPE": "en_GB.UTF-8"}, False),
    ],
)
def test_a_locale_without_utf_8_means_7_bit_characters(environ: Mapping[str, str], only: bool) -> None:
    assert preferences.read("", declared_keys.problems, environ).ascii is only
    assert preferences.read("ascii = false", declared_keys.problems, environ).ascii is False


# --- what is remembered -------------------------------------------------------------------------


def dashboard(wanted: Preferences | None) -> RankdeckApp:
    return RankdeckApp(ScriptedSource(scripted.running().events), preferences=wanted)


async def test_a_chosen_theme_is_used_again_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    app = dashboard(Preferences())
    async with app.run_test() as pilot:
        await settled(pilot)
        await pilot.press("t")
        await pilot.pause()
    assert remembered.recall() == Remembered(theme="rankdeck-light")
    assert dashboard(Preferences()).theme == "rankdeck-light"
    assert dashboard(Preferences(theme="nord")).theme == "nord", "the file and the flag win"
    assert dashboard(None).theme == "rankdeck-dark", "without preferences nothing is remembered"


def test_what_is_remembered_is_written_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, state_home: Path) -> None:
    remembered.remember(Remembered(theme="nord"))

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    remembered.remember(Remembered(theme="dracula"))
    assert json.loads(remembered.path().read_text()) == {"theme": "nord"}
    assert list(remembered.path().parent.iterdir()) == [remembered.path()]


@pytest.mark.parametrize("text", ["", "[]", '{"theme": 3}', "\x00\xff"])
def test_an_unreadable_file_counts_as_none(text: str) -> None:
    remembered.path().parent.mkdir(parents=True, exist_ok=True)
    remembered.path().write_text(text)
    assert remembered.recall() == Remembered()


def test_a_remembered_theme_that_no_longer_exists_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    remembered.remember(Remembered(theme="of-long-ago"))
    assert dashboard(Preferences()).theme == "rankdeck-dark"


@pytest.mark.parametrize(
    ("term", "colorterm", "theme"),
    [
        ("xterm", "", "rankdeck-ansi"),
        ("dumb", "", "rankdeck-ansi"),
        ("xterm-256color", "", "rankdeck-dark"),
        ("screen-256color", "", "rankdeck-dark"),
        ("xterm", "truecolor", "rankdeck-dark"),
    ],
)
def test_a_terminal_of_sixteen_colours_gets_its_own_colours(
    monkeypatch: pytest.MonkeyPatch, term: str, colorterm: str, theme: str
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLORTERM", colorterm)
    assert dashboard(Preferences()).theme == theme
