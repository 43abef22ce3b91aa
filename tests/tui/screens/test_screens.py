"""What the dashboard looks like: pictures of every view at every size."""

from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from rankdeck.tui.app.app import RankdeckApp
from tests import scripted, scripted_steering
from tests.dashboards import SIZES, STATES, ScriptedLauncher, dashboard, said, settled, still, until, whole_screen


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", STATES)
def test_the_overview_looks_as_approved(state: str, size: tuple[int, int], snap_compare: Any) -> None:
    assert snap_compare(dashboard(STATES[state]()), terminal_size=size, run_before=settled)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", scripted_steering.STATES)
def test_a_steered_run_looks_as_approved(state: str, size: tuple[int, int], snap_compare: Any) -> None:
    assert snap_compare(dashboard(scripted_steering.STATES[state]()), terminal_size=size, run_before=settled)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("key", ["b", "X", "i"], ids=["batch_size", "stop_now", "advice"])
def test_the_dialogs_look_as_approved(key: str, size: tuple[int, int], snap_compare: Any) -> None:
    async def open_dialog(pilot: Pilot[Any]) -> None:
        await settled(pilot)
        await pilot.press(key)
        for entry in pilot.app.screen.query(Input):
            entry.cursor_blink = False
        await pilot.pause()

    assert snap_compare(dashboard(scripted_steering.auto_settled()), terminal_size=size, run_before=open_dialog)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("key", ["2", "5", "question_mark", "q"], ids=["outputs", "log", "help", "leave"])
def test_the_other_views_look_as_approved(key: str, size: tuple[int, int], snap_compare: Any) -> None:
    async def open_view(pilot: Pilot[Any]) -> None:
        await settled(pilot)
        await pilot.press(key)
        await still(pilot)

    assert snap_compare(dashboard(scripted.running()), terminal_size=size, run_before=open_view)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_start_screen_with_a_mistake_looks_as_approved(size: tuple[int, int], snap_compare: Any) -> None:
    async def mistype(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: pilot.app.focused is not None)
        await pilot.press(*"stories.txt", "tab", "0")
        for entry in pilot.app.query(Input):
            entry.cursor_blink = False
        await until(pilot, lambda: "at least 1" in said(pilot.app, "ranks"))
        await pilot.pause()

    app = RankdeckApp(None, launcher=ScriptedLauncher())
    assert snap_compare(app, terminal_size=size, run_before=mistype)


@pytest.mark.parametrize("theme", ["rankdeck-light", "ansi-dark"])
def test_other_themes_look_as_approved(theme: str, snap_compare: Any) -> None:
    async def change(pilot: Pilot[Any]) -> None:
        pilot.app.theme = theme
        await settled(pilot)

    assert snap_compare(dashboard(scripted.running(2, gpus=2)), terminal_size=(80, 24), run_before=change)


def test_without_colour_everything_is_still_said(monkeypatch: pytest.MonkeyPatch, snap_compare: Any) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(dashboard(scripted.running(2, gpus=2)), terminal_size=(80, 24), run_before=settled)


@pytest.mark.parametrize("size", [(59, 40), (120, 17)])
async def test_a_terminal_that_is_too_small_shows_one_line_that_says_so(size: tuple[int, int]) -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        assert whole_screen(app).split() == ["rankdeck", "needs", "a", "terminal", "of", "at", "least", "60x18"]
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "Throughput" in whole_screen(app))


@pytest.mark.parametrize("state", ["running", "two_gpus", *sorted(set(scripted_steering.STATES) - {"scaled_to_eight"})])
@pytest.mark.parametrize("size", SIZES)
async def test_two_ranks_never_need_scrolling(state: str, size: tuple[int, int]) -> None:
    app = dashboard({**STATES, **scripted_steering.STATES}[state]())
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        assert app.query_one("#overview").max_scroll_y == 0


async def test_eight_gpus_fit_into_120_by_40() -> None:
    app = dashboard(STATES["eight_gpus"]())
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert app.query_one("#overview").max_scroll_y == 0
