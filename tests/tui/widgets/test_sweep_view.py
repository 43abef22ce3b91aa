"""What the Sweep view looks like: pictures at every size, and what it paints."""

import asyncio
import random
from typing import Any

import pytest
from msgspec.structs import replace
from textual.app import ComposeResult
from textual.pilot import Pilot

from rankdeck.runner.state import RunState
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.panels.frame import Frame
from rankdeck.tui.panels.overview.header import header_line
from rankdeck.tui.settings import theme
from rankdeck.tui.sources.outputs import OutputBook
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Lines, Panel
from rankdeck.tui.widgets.sweep import SweepView
from tests import scripted
from tests.dashboards import SIZES, until
from tests.scripted_sweep import STATES

ALL = {name: make().state for name, make in STATES.items()}


class Host(Deck):
    """The view by itself, under a header, styled as in the dashboard."""

    CSS_PATH = RankdeckApp.CSS_PATH
    HORIZONTAL_BREAKPOINTS = RankdeckApp.HORIZONTAL_BREAKPOINTS
    VERTICAL_BREAKPOINTS = RankdeckApp.VERTICAL_BREAKPOINTS

    def __init__(self, state: RunState) -> None:
        super().__init__()
        self.state = state
        self.register_theme(theme.DARK)
        self.register_theme(theme.LIGHT)
        self.theme = "rankdeck-dark"

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return theme.variable_defaults(dark=self.current_theme.dark, ansi=self.current_theme.ansi)

    def compose(self) -> ComposeResult:
        yield Lines(id="header")
        yield SweepView(id="sweep")
        yield KeyBar()

    def show(self, state: RunState) -> None:
        self.state = state
        self.query_one("#header", Lines).show([header_line(state, self.size.width - 2)])
        self.query_one(SweepView).show(Frame(state, OutputBook(), None, steers=True))


async def shown(pilot: Pilot[Any]) -> None:
    """Wait until the state is on the screen and the layout is final."""
    app = pilot.app
    assert isinstance(app, Host)
    app.show(app.state)
    status_panel = app.query_one("#sweep-status", Panel)
    await until(pilot, lambda: bool(status_panel.lines))
    for _ in range(3):
        await pilot.pause()


SHOWN = {**STATES, "empty": scripted.running, "ended_without": scripted.completed}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", SHOWN)
def test_the_sweep_view_looks_as_approved(state: str, size: tuple[int, int], snap_compare: Any) -> None:
    assert snap_compare(Host(SHOWN[state]().state), terminal_size=size, run_before=shown)


@pytest.mark.parametrize("size", SIZES[:2], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", ["wall", "eight_ranks"])
def test_the_lower_end_of_the_view_looks_as_approved(state: str, size: tuple[int, int], snap_compare: Any) -> None:
    async def to_the_end(pilot: Pilot[Any]) -> None:
        await shown(pilot)
        pilot.app.query_one(SweepView).scroll_end(animate=False)
        for _ in range(3):
            await pilot.pause()

    assert snap_compare(Host(SHOWN[state]().state), terminal_size=size, run_before=to_the_end)


def test_the_view_looks_as_approved_in_the_light(snap_compare: Any) -> None:
    async def light(pilot: Pilot[Any]) -> None:
        pilot.app.theme = "rankdeck-light"
        await shown(pilot)

    assert snap_compare(Host(ALL["wall"]), terminal_size=(120, 40), run_before=light)


@pytest.mark.parametrize("state", ["running", "running_on_gpus", "wall", "settled", "one_rank"])
async def test_a_usual_sweep_fits_without_scrolling(state: str) -> None:
    app = Host(ALL[state])
    async with app.run_test(size=(120, 40)) as pilot:
        await shown(pilot)
        assert app.query_one(SweepView).max_scroll_y == 0


async def test_if_the_table_is_higher_than_the_screen_the_charts_are_above_it() -> None:
    app = Host(ALL["eight_ranks"])
    async with app.run_test(size=(120, 40)) as pilot:
        await shown(pilot)
        order = [child.id for child in app.query_one(SweepView).children]
        assert order == ["sweep-status", "sweep-charts", "sweep-table", "sweep-how"]
        app.show(ALL["running"])
        await pilot.pause()
        order = [child.id for child in app.query_one(SweepView).children]
        assert order == ["sweep-status", "sweep-table", "sweep-charts", "sweep-how"]


async def test_a_state_that_changes_nothing_paints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Host(ALL["settled"])
    async with app.run_test(size=(120, 40)) as pilot:
        await shown(pilot)
        painted: list[str | None] = []
        monkeypatch.setattr(Panel, "refresh", lambda self, *regions, **_: painted.extend([self.id] * bool(regions)))
        app.show(replace(app.state, now=app.state.now + 0.25))
        await pilot.pause()
        assert painted == []


async def test_any_random_sweep_can_be_shown_at_any_size() -> None:
    chosen = random.Random(3)
    app = Host(ALL["planned"])
    async with app.run_test(size=(80, 24)) as pilot:
        await shown(pilot)
        for name in [chosen.choice(list(SHOWN)) for _ in range(6)]:
            await pilot.resize_terminal(chosen.randint(60, 200), chosen.randint(18, 60))
            app.show(SHOWN[name]().state)
            await asyncio.wait_for(pilot.pause(), 5)
        assert app.query_one("#sweep-status", Panel).lines
