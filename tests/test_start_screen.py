"""The start screen: a run is chosen, checked as it is typed, and launched."""

import threading

from textual.widgets import Button, Input, Label

from runner.config import RunConfig
from tests.dashboards import ScriptedLauncher, said, until
from tui.app import RankdeckApp
from tui.screens.run import RunScreen
from tui.screens.start import StartScreen


async def test_a_run_is_chosen_checked_and_launched_with_the_keyboard() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        assert isinstance(app.screen, StartScreen)
        await until(pilot, lambda: app.screen.query_one("#ranks", Input).value == "2")
        assert app.screen.query_one("#launch", Button).disabled
        await pilot.press(*"a.txt")
        await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
        await pilot.press("tab", "tab", *["backspace"] * 4, "8", "enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        await until(pilot, lambda: app.run_is_shown)
    assert launcher.launched == [RunConfig(prompts="a.txt", model="demo", ranks=2, batch_size=8, max_new_tokens=100)]
    assert threading.get_ident() not in launcher.threads


async def test_every_mistake_is_named_beside_its_field_and_keeps_the_run_from_starting() -> None:
    launcher = ScriptedLauncher()
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(*"a.doc", "tab", "x", "tab", "0", "enter")
        await until(pilot, lambda: "no such file" in said(app, "prompts"))
        assert "whole number" in said(app, "ranks")
        await until(pilot, lambda: "from 1 to" in said(app, "batch_size"))
        assert app.screen.query_one("#launch", Button).disabled
    assert launcher.launched == []


async def test_what_keeps_a_run_from_starting_is_said_and_the_form_stays() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(OSError("no space left on device")))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(*"a.txt", "enter")
        await until(pilot, lambda: "no space left" in str(app.screen.query_one("#launch-said", Label).content))
        assert isinstance(app.screen, StartScreen)
        await pilot.press("escape")
    assert app.final_state is None
