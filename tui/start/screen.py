"""The start screen: the runs there were, what the machine has, and the form of a new run.

Knows a Launcher, which looks, checks and starts, and which is only ever asked in a thread: the screen is there before
the first answer is. Reads no file and looks at no device itself. Next door is what is done with a run in the list, in
tui/start/run_actions.py, and with the form, in tui/start/form_actions.py.
"""

import asyncio
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

import rankdeck
from rankdeck.runner.machine.facts import Machine
from rankdeck.tui.panels.forms.run_form import values_of
from rankdeck.tui.panels.forms.start_lines import machine_lines, run_subtitle, title_line
from rankdeck.tui.screens.run import TOO_SMALL
from rankdeck.tui.screens.sized import Sized
from rankdeck.tui.settings.keys import steps
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.start.form_actions import FormWishes
from rankdeck.tui.start.launcher import Launcher
from rankdeck.tui.start.memory import Back, Seen
from rankdeck.tui.start.run_actions import OpenReplay, OpenRun
from rankdeck.tui.start.run_list import RunList
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Lines, Panel

LOOK_SECONDS = 3.0
MACHINE_SECONDS = 15.0
"""How often the runs, and the machine, are looked at. NVML may take a second to start."""

ROOM_FOR_MORE = (120, 38)
"""A terminal of this size has room for the further settings from the beginning."""


class StartScreen(Sized, FormWishes):
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
        self, launcher: Launcher | None, back: Back | None = None, *, open_run: OpenRun, open_replay: OpenReplay
    ) -> None:
        """`back` is the run that one comes back from."""
        super().__init__(launcher, open_run=open_run, open_replay=open_replay)
        self._back = back

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
        yield self._said
        yield KeyBar()

    def on_mount(self) -> None:
        self._machine_panel = self.query_one("#this-machine", Panel)
        self._title = self.query_one("#start-title", Lines)
        self._form.fold(out=self.app.size.width >= ROOM_FOR_MORE[0] and self.app.size.height >= ROOM_FOR_MORE[1])
        self._say(self._back.problem if self._back is not None else "")
        if self._back is not None:
            self._list.focus()
        else:
            self._form.focus_prompts()
        self._show_machine(None)
        if self._back is not None and self._back.seen is not None:
            self._show_again(self._back.seen, self._back.directory)
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
        """Runs first, which are there in a moment; then the form and the machine, which take longer."""
        back = self._back
        if back is not None and back.seen is not None:
            await self._look_after(launcher, back.directory)
        else:
            runs = await asyncio.to_thread(launcher.recent)
            self._list.show(runs, at=back.directory if back is not None else None)
            self._fill_first(launcher, next((run for run in runs if run.config is not None), None))
        self._show_machine(await asyncio.to_thread(launcher.machine))
        self._check()

    @work(exclusive=True, group="copy")
    async def _fill_first(self, launcher: Launcher, known: RecentRun | None) -> None:
        """May take a second, in which GPUs are counted; what is taken over meanwhile comes instead of it."""
        if known is not None:
            self._fill_in(values_of(await asyncio.to_thread(launcher.settings, known)))
            self._settings_of = known.directory
        defaults = await self._defaults(launcher)
        if known is None:
            self._fill_in(defaults)
        else:
            self._form.say_taken(known.name, defaults)

    async def come_back(self, directory: Path) -> None:
        """Be, before one sees it, as one is to find it after what was opened from here."""
        if self._launcher is not None:
            await self._look_after(self._launcher, directory)
        self._launching = False
        self._form.say_launch("", wrong=False)
        self.set_focus(self._list)
        self._check()

    async def _look_after(self, launcher: Launcher, directory: Path) -> None:
        """Look at the runs after one of them was opened. The form stays as it is, unless its settings are that run's:
        those of a sweep are now its chosen setting's. All is shown at once.
        """
        runs = await asyncio.to_thread(launcher.recent)
        run = next((run for run in runs if run.directory == directory == self._settings_of), None)
        if run is not None and run.config is not None:
            values, usual = values_of(await asyncio.to_thread(launcher.settings, run)), await self._defaults(launcher)
            self._fill_in(values)
            self._form.say_taken(run.name, usual)
        self._list.show(runs, at=directory)

    def seen(self) -> Seen:
        values, typed, taken_from, usual = self._form.filled
        return Seen(self._list.runs, self._machine, values, typed, self._settings_of, taken_from, usual)

    def _show_again(self, seen: Seen, directory: Path) -> None:
        self._form.fill(seen.values)
        self._form.touched |= seen.typed
        self._form.say_taken(seen.taken_from, seen.usual)
        self._settings_of = seen.settings_of
        self._show_machine(seen.machine)
        self._list.show(seen.runs, at=directory)

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
        self._title.show([title_line(machine, max(1, self.size.width - 2), rankdeck.__version__)])

    @on(RunList.Moved)
    def _moved(self) -> None:
        self.query_one("#runs-box").border_subtitle = Content(run_subtitle(self._list.run))
        self.refresh_bindings()

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
            return not self._in_list
        if action == "defaults":
            return not self._in_list and self._form.has_taken
        return not self._in_list if action in ("launch", "sweep", "choose_file", "more") else True

    def action_runs(self) -> None:
        self.set_focus(self._list)  # at once: Widget.focus() waits its turn

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
        from rankdeck.tui.start.files import FilePicker

        picker = FilePicker(self._launcher.folder, self._form.values()["prompts"])
        self.app.push_screen(picker, self._chosen)

    def _chosen(self, path: str | None) -> None:
        if path is not None:
            self._form.set("prompts", path)

    def action_doctor(self) -> None:
        if self._launcher is None:
            return
        from rankdeck.tui.start.doctor import DoctorScreen

        self.app.push_screen(DoctorScreen(self._launcher))
