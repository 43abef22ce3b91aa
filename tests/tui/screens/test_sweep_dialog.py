"""The dialog for a sweep: checked as it is typed, and what it says the sweep will take."""

from typing import Any

import pytest
from msgspec.structs import replace
from textual.app import App
from textual.events import Key
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input, Label

from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state import RunState
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.panels.forms.sweep_form import in_run
from rankdeck.tui.screens.sweep import SweepScreen
from tests import scripted
from tests.dashboards import SIZES, until


def dialog_said(app: App[Any], name: str) -> str:
    return str(app.screen.query_one(f"#sweep-{name}", Label).content)


class Dashboard(RankdeckApp):
    """A dashboard without a run, on which the dialog is opened."""

    def __init__(self, state: RunState) -> None:
        super().__init__(None)
        self._given = state
        self.answers: list[SweepPlan | None] = []

    def get_default_screen(self) -> Screen[Any]:
        return Screen()

    def on_mount(self) -> None:
        self.push_screen(SweepScreen(in_run(self._given)), self.answers.append)


async def type_into(pilot: Pilot[Any], field: str, text: str) -> None:
    entry = pilot.app.screen.query_one(f"#sweep-{field}", Input)
    entry.focus()
    entry.value = ""
    await pilot.press(*text)
    await pilot.pause()


async def test_the_dialog_gives_a_plan_whose_answers_are_kept() -> None:
    app = Dashboard(scripted.running(4, prompts=4000).state)
    async with app.run_test() as pilot:
        await until(pilot, lambda: "trials" in dialog_said(app, "promise"))
        await type_into(pilot, "batch_sizes", "4,8,16")
        await type_into(pilot, "ranks", "1-4")
        await type_into(pilot, "repeats", "2")
        assert (
            dialog_said(app, "promise") == "24 trials: 3 batch sizes x 4 numbers of ranks x 2 repeats; at least 02:00."
        )
        await pilot.press("enter")
        await until(pilot, lambda: bool(app.answers))
    assert app.answers == [SweepPlan(batch_sizes=[4, 8, 16], ranks=[1, 2, 3, 4], repeats=2, outputs=True)]


async def test_what_is_typed_right_after_tab_goes_into_the_next_field() -> None:
    app = Dashboard(scripted.running(4, prompts=4000).state)
    async with app.run_test() as pilot:
        await until(pilot, lambda: "trials" in dialog_said(app, "promise"))
        entries = {name: app.screen.query_one(f"#sweep-{name}", Input) for name in ("batch_sizes", "ranks")}
        for entry in entries.values():
            entry.value = ""
        entries["batch_sizes"].focus()
        await pilot.pause()
        for key in ("4", "tab", "3"):
            app.post_message(Key(key, key if len(key) == 1 else None))  # as they come over a slow line
        await until(pilot, lambda: entries["ranks"].value == "3")
        assert entries["batch_sizes"].value == "4"


async def test_the_dialog_proposes_sizes_and_ranks_that_the_run_allows() -> None:
    app = Dashboard(scripted.running(6, prompts=400).state)
    async with app.run_test() as pilot:
        await until(pilot, lambda: "trials" in dialog_said(app, "promise"))
        assert app.screen.query_one("#sweep-ranks", Input).value == "1,2,4,6"
        assert app.screen.query_one("#sweep-batch_sizes", Input).value == "1,2,4,8,16"


async def test_the_dialog_says_what_is_wrong_while_it_is_typed_and_starts_nothing() -> None:
    app = Dashboard(scripted.running(2, prompts=4000).state)
    async with app.run_test() as pilot:
        await until(pilot, lambda: "trials" in dialog_said(app, "promise"))
        await type_into(pilot, "ranks", "1,3")
        assert dialog_said(app, "ranks-said") == "✗ must be numbers from 1 to 2, not 3"
        assert dialog_said(app, "promise") == ""
        await pilot.press("enter")
        await type_into(pilot, "ranks", "1,2")
        await type_into(pilot, "repeats", "1-3")
        assert dialog_said(app, "repeats-said") == "✗ needs one whole number"
        await type_into(pilot, "repeats", "999")
        assert "trials are planned, at most 2,000 are possible" in dialog_said(app, "repeats-said")
        await pilot.press("enter")
        await pilot.pause()
        assert app.answers == []
        await pilot.press("escape")
        await until(pilot, lambda: bool(app.answers))
    assert app.answers == [None]


async def test_the_dialog_warns_of_too_few_repeats_and_starts_them_anyway() -> None:
    app = Dashboard(scripted.running(2, prompts=4000).state)
    async with app.run_test() as pilot:
        await until(pilot, lambda: "trials" in dialog_said(app, "promise"))
        assert dialog_said(app, "repeats-said") == "how often each setting is measured"
        await type_into(pilot, "repeats", "2")
        said = dialog_said(app, "repeats-said")
        assert said == "! 2 repeats have ± 9.0 standard deviations at 95 %, next to useless; 3 have ± 2.5, 5 ± 1.2"
        await type_into(pilot, "repeats", "1")
        assert dialog_said(app, "repeats-said").startswith("! 1 repeat is a first look")
        await pilot.press("enter")
        await until(pilot, lambda: bool(app.answers))
    assert app.answers[0] is not None
    assert app.answers[0].repeats == 1


async def test_the_dialog_warns_if_too_few_prompts_are_left() -> None:
    app = Dashboard(scripted.running(2, prompts=200).state)
    async with app.run_test() as pilot:
        await type_into(pilot, "batch_sizes", "64,128")
        assert "That takes 3,456 prompts at least; with 136 left it ends early." in dialog_said(app, "promise")
        await pilot.press("enter")
        await until(pilot, lambda: bool(app.answers))
    assert app.answers[0] is not None


async def test_a_run_with_split_dispatch_cannot_be_swept() -> None:
    state = scripted.running().state
    assert state.config is not None
    app = Dashboard(replace(state, config=replace(state.config, dispatch="split")))
    async with app.run_test() as pilot:
        await until(pilot, lambda: "dispatch" in dialog_said(app, "promise"))
        await pilot.press("enter")
        await pilot.pause()
        assert app.answers == []


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_sweep_dialog_looks_as_approved(size: tuple[int, int], snap_compare: Any) -> None:
    async def steady(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: "trials" in dialog_said(pilot.app, "promise"))
        for entry in pilot.app.screen.query(Input):
            entry.cursor_blink = False
        await pilot.pause()

    assert snap_compare(Dashboard(scripted.running(2, prompts=1000).state), terminal_size=size, run_before=steady)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_few_repeats_look_as_approved(size: tuple[int, int], snap_compare: Any) -> None:
    async def two_repeats(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: "trials" in dialog_said(pilot.app, "promise"))
        for entry in pilot.app.screen.query(Input):
            entry.cursor_blink = False
        await type_into(pilot, "repeats", "2")

    assert snap_compare(Dashboard(scripted.running(2, prompts=1000).state), terminal_size=size, run_before=two_repeats)
