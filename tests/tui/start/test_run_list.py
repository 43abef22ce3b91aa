"""The list of recent runs by itself: where its cursor goes, what each key asks for, and when it says that it moved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.app import ComposeResult
from textual.binding import Binding
from textual.events import Click
from textual.pilot import Pilot

from rankdeck.tui.app.base import BaseApp
from rankdeck.tui.panels.forms.start_lines import ROWS_PER_RUN
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.start.run_list import RunAction, RunList
from tests.dashboards import until, whole_screen
from tests.tui.start.test_start_screen import RUNS, recent

MANY = [recent(f"run-{number:02}", "completed", started_at=float(number)) for number in range(30)]


class ListApp(BaseApp):
    """A list, and what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.list = RunList()
        self.moved = 0
        self.requested: list[tuple[RunAction, str]] = []

    def compose(self) -> ComposeResult:
        yield self.list

    def on_run_list_moved(self) -> None:
        self.moved += 1

    def on_run_list_requested(self, event: RunList.Requested) -> None:
        self.requested.append((event.action, event.run.name))


@pytest.mark.parametrize(
    ("name", "can"),
    [
        ("going", {"attach", "settings"}),
        ("done", {"look", "replay", "report", "settings"}),
        ("half", {"resume", "look", "replay", "report", "settings"}),
        ("orphan", {"resume", "look", "replay", "settings"}),
        ("odd", set()),
    ],
)
def test_what_can_be_done_with_a_run_is_what_makes_sense_for_it(name: str, can: set[RunAction]) -> None:
    runs = RunList()
    runs._runs = [run for run in RUNS if run.name == name]
    actions: tuple[RunAction, ...] = ("attach", "resume", "look", "replay", "report", "settings")
    assert {action for action in actions if runs.can(action)} == can
    assert {action for action in actions if runs.check_action("do", (action,))} == can
    assert runs.check_action("open", ()) is bool({"attach", "replay"} & can)
    assert runs.check_action("move", (1,)) is True
    runs._runs = []
    assert not any(runs.can(action) for action in actions)


async def list_of(pilot: Pilot[Any], runs: list[RecentRun]) -> tuple[ListApp, RunList]:
    app = pilot.app
    assert isinstance(app, ListApp)
    assert "looking for runs" in whole_screen(app)
    app.list.show(runs)
    app.list.focus()
    await pilot.pause()
    return app, app.list


def name_of(runs: RunList) -> str:
    return runs.run.name if runs.run is not None else ""


async def test_the_cursor_goes_by_a_run_a_page_and_to_both_ends_and_no_further() -> None:
    async with ListApp().run_test(size=(80, 20)) as pilot:
        app, runs = await list_of(pilot, MANY)
        page = runs.size.height // ROWS_PER_RUN - 1
        assert page == 9
        moves = {binding.key: binding.action for binding in RunList.BINDINGS if isinstance(binding, Binding)}
        assert moves["up,k"] == "move(-1)"
        assert moves["down,j"] == "move(1)"
        assert moves["pageup"] == "page(-1)"
        assert moves["pagedown"] == "page(1)"
        assert moves["home,g"] == "edge(0)"
        assert moves["end,G"] == "edge(1)"
        steps: list[tuple[Callable[[int], None], int, int]] = [
            (runs.action_move, -1, 0), (runs.action_move, 1, 1), (runs.action_page, 1, 10), (runs.action_page, 1, 19),
            (runs.action_page, -1, 10), (runs.action_edge, 1, 29), (runs.action_move, 1, 29), (runs.action_page, 1, 29),
            (runs.action_edge, 0, 0), (runs.action_page, -1, 0), (runs.action_page, 1, 9),
        ]  # fmt: skip
        for action, by, number in steps:
            action(by)
            assert name_of(runs) == f"run-{number:02}", (action, by)
        await pilot.pause()
        assert "▸ run-09" in whole_screen(app), "it is in sight"
        assert app.moved == 1 + len(steps)


async def test_a_click_goes_to_the_run_under_it_also_after_scrolling() -> None:
    async with ListApp().run_test(size=(80, 20)) as pilot:
        _, runs = await list_of(pilot, MANY)
        await pilot.click(RunList, offset=(3, 2 * ROWS_PER_RUN + 1))
        assert name_of(runs) == "run-02"
        runs.action_edge(1)
        await pilot.pause()
        await pilot.click(RunList, offset=(3, 0))
        assert name_of(runs) == f"run-{30 - 20 // ROWS_PER_RUN:02}"
        runs.on_click(Click(None, 0, 10**6, 0, 0, 1, False, False, False))
        assert name_of(runs) == "run-29"


async def test_keys_ask_for_the_run_under_the_cursor_and_enter_for_what_opens_it() -> None:
    async with ListApp().run_test(size=(80, 20)) as pilot:
        app, runs = await list_of(pilot, RUNS)
        keys: tuple[RunAction, ...] = ("attach", "resume", "look", "replay", "report", "settings")
        for name in ("going", "half", "odd"):  # one that goes on, one that was stopped, one that cannot be read
            runs.action_edge(0)
            runs.action_move([run.name for run in RUNS].index(name))
            if runs.check_action("open", ()):
                runs.action_open()
            for action in keys:
                if runs.check_action("do", (action,)):
                    runs.action_do(action)
        await pilot.pause()
    assert app.requested == [
        ("attach", "going"), ("attach", "going"), ("settings", "going"),
        ("look", "half"), ("resume", "half"), ("look", "half"), ("replay", "half"), ("report", "half"),
        ("settings", "half"),
    ]  # fmt: skip


async def test_a_list_that_is_shown_again_keeps_its_run_and_says_only_what_has_changed() -> None:
    async with ListApp().run_test(size=(80, 20)) as pilot:
        app, runs = await list_of(pilot, RUNS)
        assert app.moved == 1, "the first list is a move"
        runs.action_move(1)
        await pilot.pause()
        assert (name_of(runs), app.moved) == ("done", 2)
        runs.show(list(RUNS))
        await pilot.pause()
        assert app.moved == 2
        runs.show([recent("newer", "running"), *RUNS])
        await pilot.pause()
        assert (name_of(runs), app.moved) == ("done", 2), "the same run, a row lower"
        changed = RUNS[1]._replace(status="failed")
        runs.show([RUNS[0], changed])
        await pilot.pause()
        assert (runs.run, app.moved) == (changed, 3), "its keys may be others now"
        runs.show(RUNS, at=Path("/runs/orphan"))
        await pilot.pause()
        assert (name_of(runs), app.moved) == ("orphan", 4)
        runs.show(RUNS[:2])
        await pilot.pause()
        assert name_of(runs) == "done", "the last one, where its run has gone"
        runs.show([])
        await pilot.pause()
        assert (runs.run, list(runs.runs)) == (None, [])
        await until(pilot, lambda: "No runs yet" in whole_screen(app))
        runs.action_edge(1)
        runs.action_open()
        await pilot.pause()
        assert (app.requested, runs.run) == ([], None)
