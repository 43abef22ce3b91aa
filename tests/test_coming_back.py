"""Between the start screen and what is opened from it: what leaving is called, and what one finds on coming back."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button

from runner import rundir
from runner.rundir import RunFileError
from tests import scripted
from tests.dashboards import SIZES, ScriptedLauncher, dashboard, settled, until, whole_screen
from tests.reports import write_run
from tests.terminal import Terminal
from tests.test_start_screen import RUNS, keys_shown, list_of, to_run
from tui import watch
from tui.app import RankdeckApp
from tui.coming_back import Back, problem
from tui.journal import SAMPLE, Journal, how_it_stops
from tui.replay import ReplaySource
from tui.screens.help import HelpScreen
from tui.screens.leave import LeaveScreen
from tui.screens.replay import ReplayApp
from tui.text import plain
from tui.widgets.lines import Panel

# --- what leaving is called -----------------------------------------------------------------------


async def opened_from_start(pilot: Pilot[Any]) -> None:
    await to_run(pilot, "going")
    await pilot.press("enter")
    await settled(pilot)


@pytest.mark.parametrize("size", SIZES)
async def test_leaving_a_run_that_was_opened_from_the_start_screen_is_called_going_back(size: tuple[int, int]) -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS))
    async with app.run_test(size=size) as pilot:
        await opened_from_start(pilot)
        assert keys_shown(app).startswith("q Back")
        if size[0] >= 80:
            assert ("d Let run" if size[0] >= 120 else "d Run on") in keys_shown(app)
        palette = {command.title: command.help for command in app.get_system_commands(app.screen)}
        assert palette["Back"] == "Back to the start screen; asks first while the run goes on"
        assert palette["Let run"] == "Back to the start screen; the run goes on"
        assert not {"Quit", "Detach"} & palette.keys()
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        helped = " ".join(plain(app.screen.query_one(Panel).lines).split())
        assert "Back to the start screen; asks first" in helped
        await pilot.press("escape", "q")
        assert isinstance(app.screen, LeaveScreen)
        assert [str(button.label) for button in app.screen.query(Button)] == ["Stop (s)", "Back (d)", "Stay (esc)"]
        await pilot.press("d")
    assert app.return_value == "detached"


async def test_leaving_a_run_that_was_opened_by_itself_is_called_quitting_and_detaching() -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert keys_shown(app).startswith("q Quit")
        assert "d Detach" in keys_shown(app)
        assert {"Quit", "Detach"} <= {command.title for command in app.get_system_commands(app.screen)}


@pytest.mark.parametrize(("from_start", "words"), [(True, "q Back"), (False, "q Quit")])
async def test_leaving_a_replay_is_called_by_where_it_leads(from_start: bool, words: str) -> None:
    journal = Journal(SAMPLE)
    app = ReplayApp(ReplaySource(journal, playing=False), how_it_stops(journal), from_start=from_start)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.run_is_shown)
        await until(pilot, lambda: keys_shown(app).startswith(words))


# --- coming back ------------------------------------------------------------------------------------


async def test_one_comes_back_to_the_list_with_the_run_under_the_cursor_and_its_state_up_to_date() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS), back=Back(Path("/runs/half")))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: list_of(app).run == RUNS[2])
        assert app.focused is list_of(app)
        await until(pilot, lambda: "▸ half" in whole_screen(app) and "■ stopped" in whole_screen(app))
        await until(pilot, lambda: "u Resume" in keys_shown(app))  # the keys are those of the run


async def test_a_run_that_is_not_listed_any_more_leaves_the_cursor_on_the_newest() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS), back=Back(Path("/elsewhere")))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: list_of(app).run == RUNS[0])
        assert app.focused is list_of(app)


@pytest.mark.parametrize("size", SIZES)
async def test_what_broke_is_said_above_the_keys_until_something_else_is_done(size: tuple[int, int]) -> None:
    back = Back(Path("/runs/done"), "done: its replay broke: ValueError: [b]odd (tui/x.py:1)")
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS), back=back)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: list_of(app).run == RUNS[1])
        assert "✗ done: its replay broke: ValueError: [b]odd" in whole_screen(app)
        await pilot.press("c")
        await until(pilot, lambda: "its replay broke" not in whole_screen(app))


# --- what is said of what broke -----------------------------------------------------------------------


def broken(error: Exception) -> str:
    try:
        raise error
    except Exception as caught:
        return problem("its replay broke", caught, "a [b] run", "replay")


def test_of_a_bug_it_is_said_what_it_is_where_it_is_and_what_shows_all_of_it() -> None:
    assert broken(ValueError("not\nso")).startswith(
        "a [b] run: its replay broke: ValueError: not so (tests/test_coming_back.py:"
    )
    assert broken(KeyError()).endswith(". The run is untouched; `rankdeck replay 'a [b] run'` shows the whole error")


def test_where_no_command_shows_more_of_it_none_is_named() -> None:
    said = problem("its settings cannot be taken over", ValueError("not so"), "a-run", None)
    assert said == "a-run: its settings cannot be taken over: ValueError: not so. The run is untouched"


@pytest.mark.parametrize("error", [OSError("no space left"), RunFileError("no space left")])
def test_what_was_said_for_people_is_said_as_it_is(error: Exception) -> None:
    assert broken(error) == "a [b] run: its replay broke: no space left"


def test_names_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in problem("broke", ValueError("\x1b[31m"), "\x1b]0;x\x07", "replay")


BREAKS = """
import sys
from tui.screens.replay import ReplayScreen
from tui.screens.run import RunScreen
from tui.cli import main
def compose_below(self):
    raise ValueError("nothing below")
ReplayScreen.compose_below = compose_below
main()
"""


@pytest.mark.slow
def test_a_replay_that_breaks_leads_back_to_the_start_screen_which_says_so() -> None:
    directory = rundir.runs_directory() / "done"
    directory.parent.mkdir(parents=True)
    write_run(directory)
    write_run(directory.parent / "newer", started_at=1.8e9)
    shutil.copy(SAMPLE, directory / rundir.EVENTS_FILE)
    with Terminal([sys.executable, "-c", BREAKS], columns=80, rows=24) as terminal:
        terminal.wait_for("newer", seconds=20)
        terminal.send("\x1b")
        terminal.wait_for("p Replay")
        terminal.send("j")
        terminal.wait_for("▸ done")
        terminal.send("p")
        terminal.wait_for("done: its replay broke: ValueError: nothing below", seconds=30)
        terminal.wait_for("▸ done")
        assert "`rankdeck replay done` shows the whole error" in " ".join(terminal.text.split())
        terminal.send("q")
        assert terminal.wait() == 0
    assert b"Traceback" in terminal.raw, "the whole error stands in the terminal that one leaves"


def test_a_start_screen_that_breaks_itself_ends_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def fly(app: RankdeckApp) -> None:
        app._return_code = 1

    monkeypatch.setattr("tui.flight.fly", fly)
    assert watch.start_screen() == 1


def test_a_dashboard_that_breaks_leads_back_and_the_status_is_not_that_of_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came_back: list[Back | None] = []

    def fly(app: RankdeckApp) -> None:
        came_back.append(app._back)
        if len(came_back) == 1:
            app._source = dashboard(scripted.running())._source
            app._exception, app._return_code = ImportError("no module named x"), 1

    monkeypatch.setattr("tui.flight.fly", fly)
    assert watch.start_screen() == 1
    first, second = came_back
    assert first is None
    assert second is not None
    assert "its dashboard broke: ImportError: no module named x" in second.problem


def test_a_replay_that_cannot_even_be_imported_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tui.screens.replay", None)
    back = watch._replay(Journal(SAMPLE), 0.0, None)
    assert back is not None
    assert "its replay broke: ModuleNotFoundError: " in back.problem
    assert back.directory == SAMPLE.parent
