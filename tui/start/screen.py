"""The start screen: earlier runs, what the machine has, and the form of a new run.

Connects its parts: RunActions does what a key in the list says, FormLaunch checks and launches what is in the form,
FormFill fills it in. Knows a Launcher, asked only in threads so that the screen appears at once; reads no file itself.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Label, Static
from textual.worker import WorkType

import rankdeck
from rankdeck.runner.machine.facts import Machine
from rankdeck.tui.panels.forms.start_lines import machine_lines, run_subtitle, title_line
from rankdeck.tui.screens.run import TOO_SMALL
from rankdeck.tui.screens.sized import Sized
from rankdeck.tui.settings.keys import steps
from rankdeck.tui.start.form import NewRun
from rankdeck.tui.start.form_fill import FormFill
from rankdeck.tui.start.form_launch import FormLaunch
from rankdeck.tui.start.launcher import Launcher
from rankdeck.tui.start.run_actions import RunActions
from rankdeck.tui.start.run_list import RunList
from rankdeck.tui.start.way_back import Back, Seen
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Lines, Panel

if TYPE_CHECKING:
    from rankdeck.tui.sources.client import Source
    from rankdeck.tui.sources.journal import Journal

LOOK_SECONDS = 3.0
MACHINE_SECONDS = 15.0
"""How often to look at the runs and at the machine. NVML may take a second to start."""


class StartScreen(Sized, Screen[None]):
    """Recent runs and the machine on the left, the form on the right."""

    DEFAULT_CSS = """
    StartScreen #start-title { height: 1; padding: 0 1; background: $panel; }
    StartScreen #deck { height: 1fr; align-horizontal: center; }
    StartScreen #left { width: 33; height: 100%; }
    StartScreen #runs-box {
        height: 1fr;
        border: round $border;
        border-title-color: $quiet;
        border-title-style: bold;
        border-subtitle-color: $quiet;
        padding: 0 1;
    }
    StartScreen #start-said { width: 100%; height: auto; max-height: 4; padding: 0 1; color: $error; display: none; }
    StartScreen #runs-box:focus-within { border: round $primary; border-title-color: $primary; }
    StartScreen NewRun { width: 1fr; max-width: 96; }
    StartScreen.-wide #left { width: 2fr; max-width: 68; }
    StartScreen.-wide NewRun { width: 3fr; }
    StartScreen.-wide NewRun #more-fields { grid-size: 2; }
    StartScreen.-narrow #deck { layout: vertical; }
    StartScreen.-narrow #left { width: 100%; height: 5; }
    StartScreen.-narrow #this-machine { display: none; }
    StartScreen.-narrow NewRun { width: 100%; height: 1fr; }
    StartScreen.-narrow #runs-box, StartScreen.-narrow NewRun { border: none; border-top: solid $border; }
    StartScreen.-narrow #runs-box:focus-within, StartScreen.-narrow NewRun:focus-within { border-top: solid $primary; }
    StartScreen.-short NewRun .setting-said { display: none; }
    StartScreen.-short NewRun .setting-box:focus-within .setting-said { display: block; }
    StartScreen.-short NewRun .setting-said.-wrong { display: block; }
    StartScreen.-short NewRun .setting-said.-doubtful { display: block; }
    StartScreen.-short NewRun #memory, StartScreen.-short NewRun #launching { margin-top: 0; }
    StartScreen.-too-narrow #deck, StartScreen.-too-short #deck { display: none; }
    StartScreen.-too-narrow #start-title, StartScreen.-too-short #start-title { display: none; }
    StartScreen.-too-narrow #start-said, StartScreen.-too-short #start-said { display: none; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+enter,ctrl+j", "launch", "Launch", key_display="enter", id="start.launch", tooltip="Start the run"
        ),
        Binding("ctrl+o", "choose_file", "File", id="start.file", tooltip="Choose the file of prompts"),
        Binding("f4", "sweep", "Sweep", id="start.sweep", tooltip="Measure batch sizes and ranks on these prompts"),
        Binding("f3", "more", "More", id="start.more", tooltip="Show the further settings, or put them away"),
        Binding("f2,D", "doctor", "Doctor", id="start.doctor", tooltip="What would not work here, and the cure"),
        Binding(
            "f5",
            "defaults",
            "Defaults",
            id="start.defaults",
            tooltip="Put back what was taken over from a run; what you typed stays",
        ),
        *steps("start", "tab", "shift+tab", "next", "previous", at_once=True),
        *steps("start", "down", "up", "below", "above"),
        Binding("n", "new_run", "New run", id="start.new", tooltip="To the form of a new run"),
        Binding(
            "escape",
            "runs",
            "Leave form",
            id="start.runs",
            tooltip="From the form to the recent runs",
            priority=True,  # at once: what comes right behind it is a key of the list, not text
        ),
        Binding("q", "app.leave", "Quit", id="app.leave", tooltip="Leave rankdeck; runs go on"),
    ]

    def __init__(
        self,
        launcher: Launcher,
        back: Back | None = None,
        *,
        open_run: "Callable[[Source, Seen], object]",
        open_replay: "Callable[[Journal, float, Seen], object]",
    ) -> None:
        """`back` is the run just left. `open_replay` is given the second to begin at; Seen is what to come back to."""
        super().__init__()
        self._launcher, self._back = launcher, back
        # Made here, not in `compose`: the line of keys asks what can be done before the screen is mounted.
        self._list = RunList(id="runs")
        self._form = NewRun(id="new-run")
        self._problem = Label("", id="start-said", markup=False)
        self._launch = FormLaunch(
            self, self._form, launcher, opened=lambda source: open_run(source, self.seen()), complain=self._complain
        )
        self._fill = FormFill(self._form, launcher, propose=self._launch.fill)
        self._actions = RunActions(
            launcher,
            open=self._launch.open,
            replay=lambda journal, second: open_replay(journal, second, self.seen()),
            notify=self.notify,
            copy=self._fill.copy,
            complain=self._complain,
        )

    def compose(self) -> ComposeResult:
        yield Static(TOO_SMALL, id="too-small", markup=False)
        yield Lines(id="start-title")
        with Horizontal(id="deck"):
            with Vertical(id="left"):
                with Vertical(id="runs-box") as box:
                    box.border_title = "Recent runs"
                    yield self._list
                yield Panel("This machine", id="this-machine")
            yield self._form
        yield self._problem
        yield KeyBar()

    def on_mount(self) -> None:
        back = self._back
        self._machine_panel = self.query_one("#this-machine", Panel)
        self._title = self.query_one("#start-title", Lines)
        if back is None:
            self._form.focus_prompts()
        else:
            self._complain(back.problem)
            self._list.focus()
        self._show_machine(None)
        if back is not None and back.seen is not None:
            self._form.restore(back.seen.form)
            self._show_machine(back.seen.machine)
            self._list.show(back.seen.runs, at=back.directory)
        self._look_first()
        self.set_interval(LOOK_SECONDS, self._look_again)
        self.set_interval(MACHINE_SECONDS, self._look_at_the_machine_again)
        self._launch.check()

    def on_resize(self) -> None:
        self._show_machine(self._launch.machine)

    def _work(self, group: str, work: WorkType[None]) -> None:
        self.run_worker(work, group=group, exclusive=True)

    def _complain(self, problem: str) -> None:
        """Show a line above the keys until something else is done; an empty one takes no room."""
        self._problem.display = bool(problem)
        self._problem.update(f"✗ {problem}" if problem else "")

    # --- looking at the runs and the machine ------------------------------------------------------

    @work(group="first look")
    async def _look_first(self) -> None:
        """Runs first, which are known in a moment; then the form and the machine, which take longer."""
        back = self._back
        if back is not None and back.seen is not None:
            await self._look_after(back.directory)
        else:
            runs = await asyncio.to_thread(self._launcher.recent)
            self._list.show(runs, at=back.directory if back is not None else None)
            newest = next((run for run in runs if run.config is not None), None)
            self._work("copy", partial(self._fill.first, newest))  # in that group: settings copied meanwhile replace it
        self._show_machine(await asyncio.to_thread(self._launcher.machine))
        self._launch.check()

    async def come_back(self, directory: Path) -> None:
        """Get ready to be shown again after the run in `directory`, which was opened from here."""
        await self._look_after(directory)
        self._launch.come_back()
        self.set_focus(self._list)
        self._launch.check()

    async def _look_after(self, directory: Path) -> None:
        """Look at the runs after one of them was opened, and show all changes at once.

        The form stays as it is, unless its settings are that run's: a sweep's are now those of the setting it chose.
        """
        runs = await asyncio.to_thread(self._launcher.recent)
        run = next((run for run in runs if run.directory == directory == self._form.settings_of), None)
        if run is not None and run.config is not None:
            await self._fill.again(run)
        self._list.show(runs, at=directory)

    def seen(self) -> Seen:
        """What to come back to."""
        return Seen(self._list.runs, self._launch.machine, self._form.filled)

    @work(exclusive=True, group="look")
    async def _look_again(self) -> None:
        if self.is_current and not self._launch.busy:
            self._list.show(await asyncio.to_thread(self._launcher.recent))

    @work(exclusive=True, group="look at machine")
    async def _look_at_the_machine_again(self) -> None:
        if self.is_current and not self._launch.busy:
            self._show_machine(await asyncio.to_thread(self._launcher.machine))

    def _show_machine(self, machine: Machine | None) -> None:
        self._launch.machine = machine
        self._machine_panel.draw(lambda width, height: machine_lines(machine, width))
        self._title.show([title_line(machine, max(1, self.size.width - 2), rankdeck.__version__)])

    # --- messages of the parts --------------------------------------------------------------------

    @on(RunList.Moved)
    def _moved(self) -> None:
        self.query_one("#runs-box").border_subtitle = Content(run_subtitle(self._list.run))
        self.refresh_bindings()

    @on(RunList.Requested)
    def _requested(self, event: RunList.Requested) -> None:
        if self._launch.busy:
            return
        self._complain("")
        group = {"report": "report", "settings": "copy"}.get(event.action, "launch")
        self._work(group, partial(self._actions.do, event.action, event.run))

    @on(NewRun.Changed)
    def _changed(self, event: NewRun.Changed) -> None:
        if event.setting:
            self._complain("")
        self._launch.check()

    # --- keys -------------------------------------------------------------------------------------

    def on_descendant_focus(self) -> None:
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Launching and choosing belong to the form; in the list a letter is a key."""
        in_list = self.focused is self._list
        if action == "new_run":
            return in_list
        if action == "defaults" and not self._form.has_taken:
            return False
        return not in_list or action not in ("runs", "launch", "sweep", "choose_file", "more", "defaults")

    @on(NewRun.Submitted)
    def action_launch(self) -> None:
        self._launch.request(self._launch.run)

    def action_sweep(self) -> None:
        self._launch.request(self._launch.sweep)

    def action_defaults(self) -> None:
        self._work("copy", self._fill.reset)

    def action_runs(self) -> None:
        self.set_focus(self._list)  # at once: Widget.focus() waits its turn

    def action_new_run(self) -> None:
        self._form.focus_prompts()

    def action_more(self) -> None:
        self._form.turn_more()

    def action_choose_file(self) -> None:
        from rankdeck.tui.start.files import FilePicker

        picker = FilePicker(self._launcher.folder, self._form.values()["prompts"])
        self.app.push_screen(picker, self._form.choose_prompts)

    def action_doctor(self) -> None:
        from rankdeck.tui.start.doctor import DoctorScreen

        self.app.push_screen(DoctorScreen(self._launcher))
