"""The parts of the start screen, each by itself: no start screen, and a form only where there is one to fill in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.app import ComposeResult
from textual.pilot import Pilot
from textual.widgets import Input

from rankdeck.runner.protocol.config import RunConfig
from rankdeck.tui.app.base import BaseApp
from rankdeck.tui.sources.client import Source
from rankdeck.tui.sources.journal import SAMPLE, Journal
from rankdeck.tui.start.form import NewRun
from rankdeck.tui.start.form_fill import FormFill
from rankdeck.tui.start.form_launch import FormLaunch
from rankdeck.tui.start.run_actions import RunActions
from rankdeck.tui.start.run_list import RunAction
from tests.dashboards import ScriptedLauncher, until
from tests.tui.start.test_start_screen import recent

DONE = recent("done", "completed")

# --- the actions of a run -----------------------------------------------------------------------------


class Results:
    """Everything the actions of a run hand on."""

    def __init__(self, launcher: ScriptedLauncher) -> None:
        self.results: list[Any] = []
        self.complaints: list[str] = []
        self.actions = RunActions(
            launcher,
            open=self._open,
            replay=lambda journal, second: self.results.append((journal, second)),
            copy=self._copy,
            notify=lambda text, **_: self.results.append(text),
            complain=self.complaints.append,
        )

    async def _open(self, start: Callable[[], Source], failed: Callable[[Exception], None]) -> None:
        try:
            self.results.append(start())
        except OSError as error:
            failed(error)

    async def _open_and_tell(self, start: Callable[[], Source], failed: Callable[[Exception], None]) -> None:
        try:
            start()
        except KeyError as error:
            failed(error)

    async def _copy(self, run: object) -> None:
        self.results.append(run)


@pytest.mark.parametrize(
    ("action", "asked"),
    [
        ("attach", "attach"),
        ("resume", "resume"),
        ("look", "journal"),
        ("replay", "journal"),
        ("report", "report"),
        ("settings", None),
    ],
)
async def test_each_action_has_a_result_and_no_complaint(action: RunAction, asked: str | None) -> None:
    launcher = ScriptedLauncher()
    done = Results(launcher)
    await done.actions.do(action, DONE)
    (result,) = done.results
    assert done.complaints == []
    assert launcher.asked == ([(asked, DONE.directory)] if asked else [])
    if action in ("look", "replay"):
        assert result[1] == (Journal(SAMPLE).length if action == "look" else 0.0)
    if action == "report":
        assert result == "/runs/done/report.html, with .md, .csv and .json beside it"
    if action == "settings":
        assert result is DONE


@pytest.mark.parametrize("action", ["attach", "resume", "look", "replay", "report"])
async def test_an_action_that_fails_says_of_which_run_and_why(action: RunAction) -> None:
    failed = Results(ScriptedLauncher(OSError("gone")))
    await failed.actions.do(action, DONE)
    assert failed.results == []
    what = {
        "attach": "cannot be attached to",
        "resume": "cannot be resumed",
        "look": "cannot be shown",
        "replay": "cannot be replayed",
        "report": "no report can be made",
    }
    assert failed.complaints == [f"done: {what[action]}: gone"]


async def test_a_bug_names_the_command_that_shows_all_of_it_and_copying_settings_has_none() -> None:
    class Broken(Results):
        async def _copy(self, run: object) -> None:
            raise KeyError("odd")

    commands: dict[RunAction, str | None] = {
        "attach": "attach", "resume": "resume", "look": "replay", "replay": "replay", "report": "report",
        "settings": None,
    }  # fmt: skip
    for action, command in commands.items():
        broken = Broken(ScriptedLauncher(KeyError("odd")))
        broken.actions._open = broken._open_and_tell  # type: ignore[assignment]
        await broken.actions.do(action, DONE)
        (complaint,) = broken.complaints
        assert complaint.endswith(
            f"`rankdeck {command} done` shows the whole error" if command else "The run is untouched"
        )


async def test_the_path_of_a_report_is_shown_harmless_and_long_enough_to_be_read() -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    done = Results(ScriptedLauncher())
    done.actions._notify = lambda text, **how: told.append((text, how))
    await done.actions.do("report", recent("a\x1b[red]", "completed"))
    assert told == [
        (
            "/runs/a␛[red]/report.html, with .md, .csv and .json beside it",
            {"title": "Report written", "markup": False, "timeout": 15},
        )
    ]


# --- the form -----------------------------------------------------------------------------------------


class FormApp(BaseApp):
    """A form with its two parts, and nothing else of the start screen."""

    def __init__(self, launcher: ScriptedLauncher) -> None:
        super().__init__()
        self.form = NewRun()
        self.launcher = launcher
        self.opened: list[Source] = []
        self.complaints: list[str] = []

    def compose(self) -> ComposeResult:
        yield self.form

    def on_mount(self) -> None:
        self.launch = FormLaunch(
            self.screen, self.form, self.launcher, opened=self.opened.append, complain=self.complaints.append
        )
        self.fill = FormFill(self.form, self.launcher, propose=self.launch.fill)


async def test_a_request_waits_for_the_check_of_what_was_filled_in() -> None:
    app = FormApp(ScriptedLauncher())
    async with app.run_test() as pilot:
        await app.fill.first(None)
        app.launch.request(app.launch.run)
        assert app.launcher.launched == []
        await until(pilot, lambda: bool(app.opened))
        assert app.launcher.launched == [app.launcher.first_settings()]
        assert app.launch.busy
        assert app.form.settings_of == app.opened[0].directory.resolve()
        app.launch.request(app.launch.run)
        await pilot.pause(0.3)
        assert len(app.opened) == 1, "nothing else is started while a run is shown"


async def test_a_request_with_a_mistake_is_refused_with_the_first_one() -> None:
    app = FormApp(ScriptedLauncher())
    async with app.run_test() as pilot:
        app.launch.fill({"prompts": "no.doc", "ranks": "many"})
        app.launch.request(app.launch.run)
        await until(pilot, lambda: bool(app.complaints))
        assert app.complaints == ["mend this first: Prompt file: there is no such file"]
        assert app.opened == []
        app.complaints.clear()
        app.form.fill({"prompts": "p.txt", "ranks": "2", "top_p": "7"}, over=True)
        app.launch.request(app.launch.run)
        await until(pilot, lambda: bool(app.complaints))
        assert app.complaints[0].startswith("mend this first: top-p: ")
        await until(pilot, lambda: app.focused is app.form._fields["top_p"])
        assert app.form.has_class("-more"), "it was out of sight"


async def test_settings_are_proposed_but_for_what_was_typed_and_copied_even_over_that() -> None:
    app = FormApp(ScriptedLauncher())
    config = RunConfig(prompts="b.txt", ranks=5)
    async with app.run_test() as pilot:
        await _type_prompts(pilot, app)
        await app.fill.first(DONE)
        assert (app.form.values()["prompts"], app.form.values()["ranks"]) == ("a", "3")
        assert app.form.settings_of == DONE.directory
        await app.fill.copy(recent("b", "completed", config=config))
        assert (app.form.values()["prompts"], app.form.values()["ranks"]) == ("b.txt", "5")
        assert app.form.settings_of == Path("/runs/b")
        await app.fill.reset()
        assert (app.form.values()["prompts"], app.form.settings_of) == ("stories.txt", None)


async def test_settings_that_come_between_two_letters_leave_what_is_being_typed() -> None:
    app = FormApp(ScriptedLauncher())
    async with app.run_test() as pilot:
        app.form.focus_prompts()
        await pilot.pause()
        field = app.form._fields["prompts"]
        assert isinstance(field, Input)
        field.value = "/home/an"  # as a key does; the form has not been told of it yet
        field.cursor_position = len(field.value)
        app.form.fill({"prompts": "stories.txt", "ranks": "4"})
        field.insert_text_at_cursor("na/p.txt")
        assert app.form.values()["prompts"] == "/home/anna/p.txt"
        assert app.form.values()["ranks"] == "4"


async def _type_prompts(pilot: Pilot[Any], app: FormApp) -> None:
    app.form.focus_prompts()
    await pilot.press("a")
    await until(pilot, lambda: app.form.values()["prompts"] == "a")


async def test_a_run_that_can_not_be_opened_gives_the_form_back() -> None:
    app = FormApp(ScriptedLauncher())
    told: list[Exception] = []

    def fails() -> Source:
        raise OSError("no room")

    async with app.run_test() as pilot:
        await app.fill.first(None)
        await until(pilot, lambda: not app.form._button.disabled)
        await app.launch.open(fails, told.append)
        assert [str(error) for error in told] == ["no room"]
        assert (app.launch.busy, app.opened, app.form._button.disabled) == (False, [], False)
        assert str(app.form._launch_said.content) == "", "it is launching no more"
        app.form.settings_of = Path("/runs/other")
        app.form.touched.add("prompts")
        await app.launch.open(lambda: app.launcher.attach(Path("/runs/a")), told.append)
        assert (app.launch.busy, len(app.opened)) == (True, 1)
        assert (app.form.settings_of, app.form.touched) == (Path("/runs/other"), {"prompts"}), "it launched nothing new"
        await app.launch.open(fails, told.append)
        assert len(told) == 1, "nothing else is opened meanwhile"
        app.launch.come_back()
        await app.launch.open(lambda: app.launcher.launch(RunConfig(prompts="p.txt")), told.append, launches=True)
        assert app.form.settings_of == app.opened[1].directory.resolve()
        assert app.form.touched == set()
