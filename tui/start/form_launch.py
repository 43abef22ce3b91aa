"""Checks the form as it is typed into, and launches a run or a sweep with its settings once they are right.

Knows the form, a Launcher, which it asks in a thread, and a screen to run workers on; not what a setting means.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.screen import Screen
from textual.worker import WorkType

from rankdeck.runner.inputs.memory_estimate import MemoryEstimate
from rankdeck.runner.machine.facts import Machine
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.tui.panels.forms.run_form import first_mistake, in_the_forms_words, read_config
from rankdeck.tui.start.form import NewRun
from rankdeck.tui.start.launcher import Launcher
from rankdeck.tui.words.errors import reason

if TYPE_CHECKING:
    from rankdeck.tui.sources.client import Source

CHECK_AFTER_SECONDS = 0.15
"""A check waits until typing has paused for this long."""


class FormLaunch:
    """Whether the settings in the form are right, how much memory they need, and what to start with them."""

    def __init__(
        self,
        screen: Screen[Any],
        form: NewRun,
        launcher: Launcher,
        *,
        opened: "Callable[[Source], object]",
        complain: Callable[[str], object],
    ) -> None:
        """`opened` is given the run that was opened, `complain` a line for the user, empty when it no longer holds."""
        self._screen, self._form, self._launcher = screen, form, launcher
        self._opened, self._complain = opened, complain
        self.machine: Machine | None = None
        """The machine to estimate memory for, once it is known."""
        self.busy = False
        """Whether a run is being opened or is shown: nothing else is started meanwhile."""
        self._problems: list[Problem] = []
        self._estimate: MemoryEstimate | str | None = None
        self._right: RunConfig | None = None
        """The settings found to be right, until the next check."""
        self._request: tuple[Callable[[RunConfig], None], RunConfig] | None = None
        """What to start once the form is right, and the settings at the time of the request."""

    def _settings(self) -> tuple[RunConfig, list[Problem]]:
        return read_config(self._form.values())

    # --- checking ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Check the form afresh."""
        self._work("check", self._check)

    async def _check(self) -> None:
        """Show mistakes in typing at once; ask the launcher when the typing pauses.

        A request is for the settings at that time: their check grants or refuses it, a later one never does.
        """
        self._right = None
        config, problems = self._settings()
        # What was typed before the key that launches may be reported after it.
        if self._request is not None and self._request[1] != config:
            self._request = None
        if problems:
            self._form.say([*problems, *self._problems], None)
            self._form.allow_launch(False)
        await asyncio.sleep(CHECK_AFTER_SECONDS)
        self._problems = await asyncio.to_thread(self._launcher.check, config)
        problems = [*problems, *self._problems]
        machine = self.machine
        self._form.say(problems, None if problems else self._estimate)
        self._right = None if problems else config
        self._form.allow_launch(not problems and not self.busy)
        request, self._request = self._request, None
        if request is not None and problems:
            self._refuse(problems)
        elif request is not None:
            request[0](config)
        if machine is not None and not problems and not self.busy:
            self._estimate = await asyncio.to_thread(self._launcher.estimate, config, machine)
            self._form.say(problems, self._estimate)

    def fill(self, values: Mapping[str, str]) -> None:
        """Fill in what the machine proposes; a pending request is for these settings from now on."""
        self._form.fill(values)
        if self._request is not None:
            self._request = self._request[0], self._settings()[0]
        self.check()

    # --- launching --------------------------------------------------------------------------------

    def request(self, start: Callable[[RunConfig], None]) -> None:
        """Call `start` (`run` or `sweep`): at once if the form is known to be right, else once a check finds it so."""
        if self.busy:
            return
        config, problems = self._settings()
        if self._right == config and not problems:
            start(config)
            return
        self._request = start, config
        self._form.touched.add("prompts")
        self.check()

    def _refuse(self, problems: Sequence[Problem]) -> None:
        """Say what to mend first, and go there from within the form."""
        setting, words = first_mistake(problems, self._form.values())
        self._complain(f"mend this first: {words}")
        if self._form.has_focus_within or self._screen.focused is None:
            self._form.go_to(setting)

    def sweep(self, config: RunConfig) -> None:
        """Plan a sweep in a dialog, and launch it."""
        self._complain("")
        self._work("plan sweep", partial(self._plan_sweep, config))

    async def _plan_sweep(self, config: RunConfig) -> None:
        from rankdeck.tui.panels.forms.sweep_form import as_sweep, new_sweep
        from rankdeck.tui.screens.sweep import SweepScreen

        def planned(plan: SweepPlan | None) -> None:
            if plan is not None:
                self.run(as_sweep(config, plan))

        launcher = self._launcher
        prompts, costs = await asyncio.to_thread(lambda: (launcher.prompts(config), launcher.costs(config)))
        # Not if something else was requested meanwhile.
        if not self.busy and self._screen.is_active and self._settings()[0] == config:
            self._screen.app.push_screen(SweepScreen(new_sweep(config, prompts, costs)), planned)

    def run(self, config: RunConfig) -> None:
        """Launch a run."""

        def failed(error: Exception) -> None:
            self._form.say_launch(in_the_forms_words(reason(error)), wrong=True)

        self._complain("")
        self._work("launch", partial(self.open, partial(self._launcher.launch, config), failed, launches=True))

    async def open(
        self, start: "Callable[[], Source]", failed: Callable[[Exception], object], *, launches: bool = False
    ) -> None:
        """Launch, resume or attach to a run, by `start`, called in a thread; `failed` is told what it raises.

        Where it `launches` what is in the form, the settings are the new run's from then on, and none count as typed.
        """
        if self.busy:
            return
        self.busy, self._request = True, None
        self._form.allow_launch(False)
        for group in ("check", "plan sweep"):
            self._screen.workers.cancel_group(self._screen, group)
        self._form.say_launch("launching", wrong=False)
        try:
            source = await asyncio.to_thread(start)
            if launches:
                self._screen.workers.cancel_group(self._screen, "copy")
                self._form.take_all_as_filled()
                self._form.settings_of = source.directory.resolve()
            self._opened(source)
        except Exception as error:
            self.come_back()
            self._form.allow_launch(self._right is not None)
            failed(error)

    def _work(self, group: str, work: WorkType[None]) -> None:
        self._screen.run_worker(work, group=group, exclusive=True)

    def come_back(self) -> None:
        """The run was left, or could not be opened. Launch is enabled by the next check."""
        self.busy = False
        self._form.say_launch("", wrong=False)
