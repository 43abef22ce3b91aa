"""Messages: where they appear, and what they leave visible."""

import pytest

from rankdeck.tui.app.app import RankdeckApp
from tests import scripted
from tests.dashboards import SIZES, dashboard, settled, until, whole_screen
from tests.tui.screens.test_replay_screen import Replay

WORD = "The run stops after the batches in flight, and those take as long as they take."


def rows(app: RankdeckApp, around: int) -> tuple[str, list[str]]:
    """The header, and the lines below the view."""
    first, *others = whole_screen(app).split("\n")
    return first, others[-around:]


@pytest.mark.parametrize("size", SIZES, ids=str)
async def test_many_messages_cover_neither_header_nor_advice_nor_keys(size: tuple[int, int]) -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=size, notifications=True) as pilot:
        await settled(pilot)
        before = rows(app, 2)
        assert "▸ 2 ranks at batch size 16" in before[1][0]
        for _ in range(12):
            app.say(WORD, "Stopping")
        await until(pilot, lambda: "▌ Stopping" in whole_screen(app))
        await pilot.pause()
        assert rows(app, 2) == before


@pytest.mark.parametrize("size", SIZES, ids=str)
async def test_messages_do_not_cover_the_line_of_a_replay(size: tuple[int, int]) -> None:
    replay = Replay()
    async with replay.app.run_test(size=size, notifications=True) as pilot:
        await replay.settled(pilot)
        before = rows(replay.app, 3)
        replay.app.say("It cannot be played faster.")
        await until(pilot, lambda: "▌ It cannot be played" in whole_screen(replay.app))
        assert rows(replay.app, 3) == before
