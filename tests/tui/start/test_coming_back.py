"""Between the start screen and what is opened from it: what leaving is called, and what is shown on coming back."""

import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Button, Input

from rankdeck.runner import run_directory
from rankdeck.runner.protocol import Stop
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFileError
from rankdeck.tui.app.app import LeftRun, RankdeckApp
from rankdeck.tui.app.replay import ReplayApp
from rankdeck.tui.panels.forms.sweep_form import without_sweep
from rankdeck.tui.screens.help import HelpScreen
from rankdeck.tui.screens.questions import LeaveScreen
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.screens.sweep import SweepScreen
from rankdeck.tui.session import watch
from rankdeck.tui.sources.client import Source
from rankdeck.tui.sources.journal import SAMPLE, Journal, how_it_stops
from rankdeck.tui.sources.replay import ReplaySource
from rankdeck.tui.sources.runs import RecentRun, Setting
from rankdeck.tui.start.screen import StartScreen
from rankdeck.tui.start.way_back import Back
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.words.errors import problem
from rankdeck.tui.words.text import cut_middle, plain
from tests import scripted
from tests.dashboards import SIZES, ScriptedLauncher, dashboard, settled, until, whole_screen
from tests.reports import write_run
from tests.scripted_source import ScriptedSource
from tests.terminal import Terminal
from tests.tui.start.test_start_screen import RUNS, keys_shown, list_of, notices, recent, to_run

# --- what leaving is called -----------------------------------------------------------------------


async def opened_from_start(pilot: Pilot[Any]) -> None:
    await to_run(pilot, "going")
    await pilot.press("enter")
    await settled(pilot)


@pytest.mark.parametrize("size", SIZES)
async def test_leaving_a_run_opened_from_the_start_screen_is_called_back(size: tuple[int, int]) -> None:
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
        await until(pilot, lambda: keys_shown(app).startswith("q Quit"))


async def test_leaving_a_run_opened_directly_is_called_quit_or_detach() -> None:
    app = dashboard(scripted.running())
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert keys_shown(app).startswith("q Quit")
        assert "d Detach" in keys_shown(app)
        assert {"Quit", "Detach"} <= {command.title for command in app.get_system_commands(app.screen)}


@pytest.mark.parametrize(("from_start", "words"), [(True, "q Back"), (False, "q Quit")])
async def test_the_key_that_leaves_a_replay_says_where_it_leads(from_start: bool, words: str) -> None:
    journal = Journal(SAMPLE)
    app = ReplayApp(ReplaySource(journal, playing=False), how_it_stops(journal), from_start=from_start)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.run_is_shown)
        await until(pilot, lambda: keys_shown(app).startswith(words))


# --- coming back ------------------------------------------------------------------------------------


async def test_coming_back_puts_the_cursor_on_the_run_with_its_current_status() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS), back=Back(Path("/runs/half")))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: list_of(app).run == RUNS[2])
        assert app.focused is list_of(app)
        await until(pilot, lambda: "▸ half" in whole_screen(app) and "■ stopped" in whole_screen(app))
        await until(pilot, lambda: "u Resume" in keys_shown(app))  # the keys are those of the run


async def test_coming_back_from_a_run_no_longer_listed_leaves_the_cursor_on_the_newest() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS), back=Back(Path("/elsewhere")))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: list_of(app).run == RUNS[0])
        assert app.focused is list_of(app)


class Painted(RankdeckApp):
    """Keeps every frame of the start screen that is painted."""

    frames: list[str]

    def __init__(self, launcher: ScriptedLauncher, back: Back | None = None) -> None:
        super().__init__(None, launcher=launcher, back=back)
        self.frames = []

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        super()._display(screen, renderable)
        if isinstance(self.screen, StartScreen):
            self.frames.append(whole_screen(self))


class Swept(ScriptedLauncher):
    """Launches a sweep that has chosen 1 rank and batch size 4 when it is left. `may_look` delays the list of runs."""

    def __init__(self) -> None:
        super().__init__(runs=RUNS)
        self.may_look = threading.Event()
        self.may_look.set()

    def launch(self, settings: RunConfig) -> Source:
        source = super().launch(settings)
        new = recent("new", "completed", directory=source.directory, config=settings, chosen=Setting(1, 4))
        self.runs.insert(0, new)
        return source

    def recent(self) -> list[RecentRun]:
        self.may_look.wait(10)
        return super().recent()

    def settings(self, run: RecentRun) -> RunConfig:
        return without_sweep(super().settings(run), run.chosen)


def fields(frame: str) -> tuple[str, ...]:
    """The values in the form, as shown by a frame."""
    found = [re.search(rf"{label} +(\S+)", frame) for label in ("Prompt file", "Ranks", "Batch size")]
    return tuple(match[1] if match is not None else "" for match in found)


async def back_from_a_sweep(pilot: Pilot[Any]) -> None:
    """Launch a sweep and leave it, up to the question whether to stop it."""
    app = pilot.app
    await until(pilot, lambda: not app.screen.query_one("#launch", Button).disabled)
    await pilot.press(*"my.txt", "tab", "9", "f4")
    await until(pilot, lambda: isinstance(app.screen, SweepScreen))
    await pilot.press("enter")
    await settled(pilot)
    await pilot.press("q")
    await until(pilot, lambda: isinstance(app.screen, LeaveScreen))


async def test_after_coming_back_nothing_changes_from_the_first_frame_on() -> None:
    app = Painted(Swept())
    async with app.run_test(size=(120, 40)) as pilot:
        await back_from_a_sweep(pilot)
        app.frames.clear()
        await pilot.press("d")
        await until(pilot, lambda: "GiB per rank" in whole_screen(app))
        await pilot.pause(0.5)
    assert app.frames
    assert {fields(frame) for frame in app.frames} == {("my.txt", "1", "4")}
    for frame in app.frames:
        assert "▸ new" in frame
        assert "from new: " in frame


async def test_the_run_stays_on_screen_until_the_start_screen_is_ready() -> None:
    launcher = Swept()
    app = Painted(launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await back_from_a_sweep(pilot)
        launcher.may_look.clear()
        await pilot.press("d")
        await pilot.pause(0.3)
        assert isinstance(app.screen, RunScreen)
        launcher.may_look.set()
        await until(pilot, lambda: isinstance(app.screen, StartScreen))


async def test_typed_settings_survive_a_look_at_another_run() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query_one("#ranks", Input).value == "3")
        await pilot.press(*"mine.txt", "escape", "enter")
        await settled(pilot)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, StartScreen))
        assert app.focused is list_of(app)
        assert app.screen.query_one("#prompts", Input).value == "mine.txt"
        await pilot.press("n", "enter")
        await settled(pilot)
        assert app.followed.state.prompts == 100, "and another run may be launched"


async def test_a_second_run_opened_shows_nothing_of_the_first() -> None:
    launcher = ScriptedLauncher(runs=RUNS)
    app = RankdeckApp(None, launcher=launcher)
    async with app.run_test(size=(80, 24)) as pilot:
        await opened_from_start(pilot)
        assert len(app.followed.book) > 0
        await pilot.press("ctrl+c", "d")
        await until(pilot, lambda: isinstance(app.screen, StartScreen))
        assert (app.followed.directory, app.followed.final_state, len(app.followed.book)) == (None, None, 0)
        await pilot.press("enter")
        await settled(pilot)
        await pilot.press("ctrl+c")
        assert isinstance(app.followed.source, ScriptedSource)
        assert app.followed.source.sent == [Stop(now=False)], "the second run was not asked to stop before"
    (left,) = app.left_runs.values()
    assert left.state is not None
    assert left.state.done == 64


async def test_stopping_a_run_on_leaving_waits_for_its_end_and_goes_back() -> None:
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened_from_start(pilot)
        await pilot.press("q", "s")
        await until(pilot, lambda: "stops after the batches in flight" in notices(app))
        assert isinstance(app.screen, RunScreen)
        assert isinstance(app.followed.source, ScriptedSource)
        app.followed.source.say(scripted.running().ended(status="stopped").events[-1])
        await until(pilot, lambda: isinstance(app.screen, StartScreen))
    (stopped,) = app.left_runs.values()
    assert stopped.state is not None
    assert stopped.state.ended is not None


async def test_after_a_replay_the_start_screen_is_at_once_as_it_was_left() -> None:
    before = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS))
    async with before.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "from going: " in whole_screen(before))
        await pilot.press(*"mine.txt")
        await to_run(pilot, "done")
        await pilot.press("p")
        await until(pilot, lambda: before.wanted is not None)
    launcher = Swept()
    launcher.may_look.clear()
    after = Painted(launcher, Back(Path("/runs/done"), seen=before.seen))
    async with after.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: bool(after.frames) and "done" in after.frames[-1])
        launcher.may_look.set()
        await until(pilot, lambda: "GiB per rank" in whole_screen(after))
        await pilot.pause(0.3)
    shown = [frame for frame in after.frames if "Recent runs" in frame]
    assert {fields(frame) for frame in shown} == {("mine.txt", "3", "7")}
    for frame in shown:
        assert "▸ done" in frame
        assert "from going" in frame


@pytest.mark.parametrize("size", SIZES)
async def test_a_failure_is_shown_above_the_keys_until_the_next_action(size: tuple[int, int]) -> None:
    back = Back(Path("/runs/done"), "done: its replay broke: ValueError: [b]odd (tui/x.py:1)")
    app = RankdeckApp(None, launcher=ScriptedLauncher(runs=RUNS), back=back)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: list_of(app).run == RUNS[1])
        assert "✗ done: its replay broke: ValueError: [b]odd" in whole_screen(app)
        await pilot.press("c")
        await until(pilot, lambda: "its replay broke" not in whole_screen(app))


# --- the words for a failure -----------------------------------------------------------------------


def broken(error: Exception) -> str:
    try:
        raise error
    except Exception as caught:
        return problem("its replay broke", caught, "a [b] run", "replay")


def test_a_bug_is_reported_with_its_type_and_the_command_that_shows_all_of_it() -> None:
    assert broken(ValueError("not\nso")).startswith("a [b] run: its replay broke: ValueError: not so. ")
    assert broken(KeyError()).endswith(". The run is untouched; `rankdeck replay 'a [b] run'` shows the whole error")


def test_the_place_of_a_bug_is_in_rankdeck_also_where_a_library_raised() -> None:
    with pytest.raises(TypeError) as caught:
        cut_middle(3, 5)
    assert "site-packages" in str(caught.traceback[-1].path), "this test wants an error from within a library"
    said = problem("broke", caught.value, "a-run", None)
    assert re.search(r"^a-run: broke: TypeError: .* \(tui/words/text\.py:\d+\)\. The run is untouched$", said)


def test_no_command_is_named_if_none_shows_more() -> None:
    said = problem("its settings cannot be taken over", ValueError("not so"), "a-run", None)
    assert said == "a-run: its settings cannot be taken over: ValueError: not so. The run is untouched"


@pytest.mark.parametrize("error", [OSError("no space left"), RunFileError("no space left")])
def test_errors_meant_for_people_are_shown_unchanged(error: Exception) -> None:
    assert broken(error) == "a [b] run: its replay broke: no space left"


def test_names_cannot_send_escape_codes_to_the_terminal() -> None:
    assert "\x1b" not in problem("broke", ValueError("\x1b[31m"), "\x1b]0;x\x07", "replay")


BREAKS = """
import sys
from rankdeck.tui.screens.replay import ReplayScreen
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.commands.cli import main
def compose_below(self):
    raise ValueError("nothing below")
ReplayScreen.compose_below = compose_below
main()
"""


@pytest.mark.slow
def test_a_replay_that_crashes_leads_back_to_the_start_screen_with_the_reason() -> None:
    directory = run_directory.runs_directory() / "done"
    directory.parent.mkdir(parents=True)
    write_run(directory)
    write_run(directory.parent / "newer", started_at=1.8e9)
    shutil.copy(SAMPLE, directory / run_directory.EVENTS_FILE)
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
    assert b"Traceback" in terminal.raw, "the whole error is in the terminal afterwards"


def test_a_start_screen_that_crashes_ends_the_command_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_through(app: RankdeckApp) -> None:
        app._return_code = 1

    monkeypatch.setattr("rankdeck.tui.session.terminal_session.run_app", run_through)
    assert watch.start_screen() == 1


def test_a_dashboard_that_crashes_leads_back_and_the_status_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came_back: list[Back | None] = []

    def run_through(app: RankdeckApp) -> None:
        came_back.append(app._back)
        if len(came_back) == 1:
            app.followed.source = dashboard(scripted.running()).followed.source
            app._exception, app._return_code = ImportError("no module named x"), 1

    monkeypatch.setattr("rankdeck.tui.session.terminal_session.run_app", run_through)
    assert watch.start_screen() == 1
    first, second = came_back
    assert first is None
    assert second is not None
    assert "its dashboard broke: ImportError: no module named x" in second.problem


def test_the_end_of_every_run_left_is_printed_and_the_last_one_sets_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_through(app: RankdeckApp) -> None:
        app.left_runs[Path("/a")] = LeftRun(scripted.completed().state, None)
        app.left_runs[Path("/b")] = LeftRun(scripted.running().ended(status="stopped").state, None)

    monkeypatch.setattr("rankdeck.tui.session.terminal_session.run_app", run_through)
    assert watch.start_screen() == 130
    said = capsys.readouterr().out
    assert said.index("completed") < said.index("stopped")


def test_a_run_that_has_ended_since_it_was_left_is_not_reported_as_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "over")
    over, on = (replace(scripted.running().state, directory=str(tmp_path / name)) for name in ("over", "on"))
    assert watch._say_end(over, None) == 0
    assert capsys.readouterr().out == ""
    assert watch._say_end(on, None) == 0
    assert "goes on. Watch it: rankdeck attach" in capsys.readouterr().out


def test_a_replay_that_cannot_be_imported_is_reported_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rankdeck.tui.app.replay", None)
    back = watch._replay(Journal(SAMPLE), 0.0, None)
    assert back is not None
    assert "its replay broke: ModuleNotFoundError: " in back.problem
    assert back.directory == SAMPLE.parent
