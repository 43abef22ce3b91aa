"""A viewer in a browser is offered nothing that reaches beyond the run into this machine."""

import os
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot

from rankdeck.runner import protocol, run_directory
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.app.replay import ReplayApp
from rankdeck.tui.panels.outputs.answer_lines import SHOWN_CHARACTERS
from rankdeck.tui.screens.answer import AnswerScreen
from rankdeck.tui.screens.export import ExportScreen
from rankdeck.tui.settings import keys, remembered
from rankdeck.tui.settings.preferences import Preferences
from rankdeck.tui.sources import journal
from rankdeck.tui.sources.replay import ReplaySource
from rankdeck.tui.web import view
from rankdeck.tui.widgets.answer_list import AnswerList
from rankdeck.tui.widgets.lines import Lines
from rankdeck.tui.words.text import plain
from tests import scripted
from tests.dashboards import settled, until, whole_screen
from tests.scripted_source import ScriptedSource

ONLY_AT_HOME = {"answer.pager", "outputs.export", "app.suspend"}


def dashboard(*, at_home: bool, **options: Any) -> RankdeckApp:
    script = scripted.running()
    script.add(protocol.Output(record=scripted.record(95, text="x" * (SHOWN_CHARACTERS + 5))))
    return RankdeckApp(ScriptedSource(script.events), at_home=at_home, **options)


async def outputs(pilot: Pilot[Any]) -> None:
    await settled(pilot)
    await pilot.press("2")
    await until(pilot, lambda: "#95" in whole_screen(pilot.app))  # type: ignore[arg-type]
    await pilot.pause()


def offered(app: App[Any]) -> set[str]:
    return {str(active.binding.id) for active in keys.one_by_one(app.screen, app.reworded) if active.enabled}


@pytest.mark.parametrize("at_home", [True, False])
async def test_only_a_user_at_this_machine_is_offered_what_reaches_beyond_the_run(at_home: bool) -> None:
    app = dashboard(at_home=at_home)
    wanted = ONLY_AT_HOME if at_home else set()
    async with app.run_test(size=(120, 60)) as pilot:
        await outputs(pilot)
        assert offered(app) & ONLY_AT_HOME == wanted
        assert {"answer.copy", "outputs.filter", "outputs.open", "app.theme"} <= offered(app)
        commands = {command.title for command in app.get_system_commands(app.screen)}
        assert ({"Pager", "Export", "To the shell"} <= commands) is at_home
        assert ("p pager" in whole_screen(app), "E export" in whole_screen(app)) == (at_home, at_home)
        assert ("p opens the pager" in plain(app.screen.query_one("#answer Lines", Lines).lines)) is at_home
        await pilot.press("question_mark")
        await pilot.pause()
        helped = plain(app.screen.query_one("#help-lines", Lines).lines)
        assert ("$PAGER" in helped, "to a file" in helped, "Back to the shell" in helped) == (at_home,) * 3
        await pilot.press("escape", "v")
        await pilot.pause()
        assert isinstance(app.screen, AnswerScreen)
        assert ("answer.pager" in offered(app)) is at_home


async def test_in_a_browser_those_keys_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr("rankdeck.tui.terminal.pager.page", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(os, "kill", lambda *arguments: started.append(arguments))
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    app = dashboard(at_home=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await outputs(pilot)
        await pilot.press("E")
        await pilot.pause()
        assert not isinstance(app.screen, ExportScreen)
        for key in ("p", "ctrl+z", "v", "p", "ctrl+z"):
            await pilot.press(key)
            await pilot.pause()
        for action in ("pager", "export", "suspend_process"):
            await app.run_action(action, app.screen)
        assert app.focused is not None
    assert started == []
    assert sorted(os.listdir(tmp_path)) == before


async def test_a_theme_chosen_in_a_browser_is_not_remembered(state_home: Path) -> None:
    remembered.remember(remembered.Remembered(theme="nord"))
    app = dashboard(at_home=False, preferences=Preferences())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert app.theme != "nord", "what is remembered is for who sits here"
        before = app.theme
        await pilot.press("t")
        await pilot.pause()
        assert app.theme != before
    assert remembered.recall().theme == "nord"


async def test_a_browser_is_not_told_to_use_the_pager_for_a_text_too_long_to_copy() -> None:
    app = dashboard(at_home=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await outputs(pilot)
        app.followed.book.add(scripted.record(96, text="x" * 100_000))
        app.followed.dirty = True
        await until(pilot, lambda: app.screen.query_one(AnswerList).cursor == 96)
        await pilot.press("y")
        await pilot.pause()
        said = " ".join(toast.message for toast in app._notifications)
        assert "75,000 bytes." in said
        assert "pager" not in said


@pytest.mark.parametrize("control", [True, False])
def test_a_browsers_dashboard_is_never_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: bool) -> None:
    monkeypatch.setattr(run_directory, "supervisor_alive", lambda directory: True)
    app = view.view_of(tmp_path, control=control)
    assert not app.at_home
    assert app.followed.steers is control
    monkeypatch.setattr(run_directory, "supervisor_alive", lambda directory: False)
    (tmp_path / "events.jsonl").write_bytes(journal.SAMPLE.read_bytes())
    replayed = view.view_of(tmp_path, control=control)
    assert isinstance(replayed, ReplayApp)
    assert not replayed.at_home


def test_a_dashboard_in_a_terminal_is_at_home() -> None:
    assert dashboard(at_home=True).at_home
    assert RankdeckApp(None).at_home
    assert ReplayApp(ReplaySource(journal.Journal(journal.SAMPLE))).at_home
