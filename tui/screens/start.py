"""The start screen: the runs there were, what the machine has, and the form of a new run.

Knows a Launcher, which looks, checks and starts, and which is only ever asked in a thread: the screen is there before
the first answer is. Reads no file and looks at no device itself. What is done with a run in the list is next door, in
tui/screens/start_runs.py.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

import runner
from runner.config import Problem, RunConfig
from runner.machine import Machine
from runner.memory_estimate import Estimate
from tui.keys import steps
from tui.launcher import Launcher
from tui.screens.run import TOO_SMALL
from tui.screens.sized import Sized
from tui.screens.start_runs import RunWishes
from tui.start_form import read_config, values_of
from tui.start_lines import machine_lines, run_subtitle, title_line
from tui.widgets.key_bar import KeyBar
from tui.widgets.lines import Lines, Panel
from tui.widgets.new_run import NewRun
from tui.widgets.run_list import RunList

if TYPE_CHECKING:
    from tui.client import Source

CHECK_AFTER_SECONDS = 0.15
"""Typing goes on: a check waits until it has paused for so long."""

LOOK_SECONDS = 3.0
MACHINE_SECONDS = 15.0
"""How often the runs, and the machine, are looked at. NVML may take a second to start."""

ROOM_FOR_MORE = (120, 38)
"""A terminal of this size has room for the further settings from the beginning."""


class StartScreen(Sized, RunWishes):
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
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+enter,ctrl+j", "launch", "Launch", key_display="enter", id="start.launch", tooltip="Start the run"
        ),
        Binding("ctrl+o", "choose_file", "File", id="start.file", tooltip="Choose the file of prompts"),
        Binding("f3", "more", "More", id="start.more", tooltip="Show the further settings, or put them away"),
        Binding("f2,D", "doctor", "Doctor", id="start.doctor", tooltip="What would not work here, and the cure"),
        *steps("start", "tab", "shift+tab", "next", "previous", at_once=True),
        *steps("start", "down", "up", "below", "above"),
        Binding("n", "new_run", "New run", id="start.new", tooltip="To the form of a new run"),
        Binding("escape", "runs", "Runs", id="start.runs", tooltip="From the form to the recent runs"),
        Binding("q,escape", "app.leave", "Quit", id="app.leave", tooltip="Leave"),
    ]

    def __init__(self, launcher: Launcher | None) -> None:
        super().__init__(launcher)
        self._machine: Machine | None = None
        self._found: list[Problem] = []
        self._estimate: Estimate | str | None = None
        self._checked: RunConfig | None = None
        self._wants_launch = False

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
        yield KeyBar()

    def on_mount(self) -> None:
        self._machine_panel = self.query_one("#this-machine", Panel)
        self._title = self.query_one("#start-title", Lines)
        self._form.fold(out=self.app.size.width >= ROOM_FOR_MORE[0] and self.app.size.height >= ROOM_FOR_MORE[1])
        self._form.focus_prompts()
        self._show_machine(None)
        if self._launcher is not None:
            self._look_first(self._launcher)
            self.set_interval(LOOK_SECONDS, self._look_again)
            self.set_interval(MACHINE_SECONDS, self._look_at_the_machine_again)
        self._check()

    def on_resize(self) -> None:
        self._show_machine(self._machine)

    # --- the runs and the machine -----------------------------------------------------------------

    @work(group="first look")
    async def _look_first(self, launcher: Launcher) -> None:
        """Runs first, which are there in a moment; the newest one's settings, else those of a first run."""
        runs = await asyncio.to_thread(launcher.recent)
        self._list.show(runs)
        known = next((run for run in runs if run.config is not None), None)
        settings = await asyncio.to_thread(
            launcher.first_settings if known is None else lambda: launcher.settings(known)
        )
        self._form.fill(values_of(settings))
        self._check()
        self._show_machine(await asyncio.to_thread(launcher.machine))
        self._check()

    def _look_again(self) -> None:
        if self._launcher is not None and self.is_current and not self._launching:
            self._look_at_runs(self._launcher)

    def _look_at_the_machine_again(self) -> None:
        if self._launcher is not None and self.is_current and not self._launching:
            self._look_at_machine(self._launcher)

    @work(exclusive=True, group="look")
    async def _look_at_runs(self, launcher: Launcher) -> None:
        self._list.show(await asyncio.to_thread(launcher.recent))

    @work(exclusive=True, group="look at machine")
    async def _look_at_machine(self, launcher: Launcher) -> None:
        self._show_machine(await asyncio.to_thread(launcher.machine))

    def _show_machine(self, machine: Machine | None) -> None:
        self._machine = machine
        self._machine_panel.draw(lambda width, height: machine_lines(machine, width))
        self._title.show([title_line(machine, max(1, self.size.width - 2), runner.__version__)])

    @on(RunList.Moved)
    def _moved(self) -> None:
        self.query_one("#runs-box").border_subtitle = Content(run_subtitle(self._list.run))
        self.refresh_bindings()

    # --- the form ---------------------------------------------------------------------------------

    @on(NewRun.Changed)
    def _typed(self, event: NewRun.Changed) -> None:
        if event.setting:
            self._wants_launch = False
        self._check()

    @on(NewRun.Submitted)
    def _submitted(self) -> None:
        self.action_launch()

    @work(exclusive=True, group="check")
    async def _check(self) -> None:
        """Say at once what can be seen at once; ask the launcher when the typing pauses."""
        self._checked = None
        config, problems = read_config(self._form.values())
        launcher = self._launcher
        if problems or launcher is None:
            self._form.say([*problems, *self._found], None)
            self._form.allow_launch(False)
        if launcher is None:
            return
        await asyncio.sleep(CHECK_AFTER_SECONDS)
        self._found = await asyncio.to_thread(launcher.check, config)
        problems = [*problems, *self._found]
        machine = self._machine
        self._form.say(problems, self._estimate if not problems else None)
        self._checked = None if problems else config
        self._form.allow_launch(not problems and not self._launching)
        if self._wants_launch and not problems:
            self._launch(config)
            return
        if machine is not None and not problems:
            self._estimate = await asyncio.to_thread(launcher.estimate, config, machine)
            self._form.say(problems, self._estimate)

    def action_launch(self) -> None:
        """Launch what was checked; what is still being checked is launched when that went well."""
        if self._launching:
            return
        if self._checked is not None:
            self._launch(self._checked)
            return
        self._form.touched.add("prompts")
        self._wants_launch = True
        self._check()

    def _launch(self, config: RunConfig) -> None:
        if (launcher := self._launcher) is not None:
            self._open(lambda: launcher.launch(config))

    @work(exclusive=True, group="launch")
    async def _open(self, start: "Callable[[], Source]") -> None:
        """From here to a run: launched, resumed or attached to."""
        if self._launching:
            return
        self._launching, self._wants_launch = True, False
        self._form.allow_launch(False)
        self.workers.cancel_group(self, "check")
        self._form.say_launch("launching", wrong=False)
        try:
            source = await asyncio.to_thread(start)
        except Exception as error:  # Whatever keeps a run from starting is said here: the user can mend it.
            self._form.say_launch(str(error) or type(error).__name__, wrong=True)
            self._form.allow_launch(self._checked is not None)
            self._launching = False
            return
        self.app.open_run(source)

    # --- keys -------------------------------------------------------------------------------------

    @property
    def _in_list(self) -> bool:
        return self.focused is self._list

    def on_descendant_focus(self) -> None:
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Launching and choosing are the form's; in the list a letter is a key."""
        if action == "new_run":
            return self._in_list
        if action == "runs":
            return not self._in_list and self._list.run is not None
        return not self._in_list if action in ("launch", "choose_file", "more") else True

    def action_runs(self) -> None:
        self._list.focus()

    def action_new_run(self) -> None:
        self._form.focus_prompts()

    def action_more(self) -> None:
        self._form.fold(out=not self._form.has_class("-more"))
        if self._form.has_class("-more"):
            self._form.focus_more()
        else:
            self.query_one("#engine").focus()

    def action_choose_file(self) -> None:
        if self._launcher is None:
            return
        from tui.screens.files import FilePicker

        picker = FilePicker(self._launcher.folder, self._form.values()["prompts"])
        self.app.push_screen(picker, self._chosen)

    def _chosen(self, path: str | None) -> None:
        if path is not None:
            self._form.set("prompts", path)

    def action_doctor(self) -> None:
        if self._launcher is None:
            return
        from tui.screens.doctor import DoctorScreen

        self.app.push_screen(DoctorScreen(self._launcher))
