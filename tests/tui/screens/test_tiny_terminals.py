"""A terminal of any size: below the least one the dashboard says so, and it is there again once there is room."""

import pytest

from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.panels.overview.plan import plan_overview
from rankdeck.tui.screens.run import TOO_SMALL
from tests import scripted
from tests.dashboards import ScriptedLauncher, dashboard, settled, until, whole_screen


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (30, 1), (5, 3), (59, 40), (120, 17)])
async def test_a_terminal_of_any_size_shows_a_run_or_says_how_large_it_must_be(size: tuple[int, int]) -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        for key in ("2", "3", "4", "5", "1", "question_mark", "escape", "q", "escape"):
            await pilot.press(key)
        await pilot.pause()
        shown = "".join(whole_screen(app).split())
        assert shown
        if size[0] * size[1] > 100:
            assert TOO_SMALL.replace(" ", "") in shown
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "64 / 100 prompts" in whole_screen(app))


async def test_so_does_the_start_screen() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher())
    async with app.run_test(size=(1, 1)) as pilot:
        await pilot.pause()
        assert whole_screen(app)


def test_an_overview_has_a_plan_for_no_room_at_all() -> None:
    assert plan_overview(scripted.running().state, 1, -8, 2, spare=False, taken=0)
