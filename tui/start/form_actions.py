"""What the start screen does with its form: has it checked, says what is wrong, launches a run or a sweep of it.

Knows the Launcher, which is only ever asked in a thread, and the form. What a setting means, the runner knows.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import msgspec
from textual import on, work

from rankdeck.runner.inputs.memory_estimate import MemoryEstimate
from rankdeck.runner.machine.facts import Machine
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.tui.panels.forms.run_form import first_of, in_the_forms_words, name_of, read_config
from rankdeck.tui.start.form import NewRun
from rankdeck.tui.start.launcher import Launcher
from rankdeck.tui.start.run_actions import OpenReplay, OpenRun, RunWishes
from rankdeck.tui.words.errors import reason
from rankdeck.tui.words.text import visible

if TYPE_CHECKING:
    from rankdeck.tui.sources.client import Source

Wanted = Literal["run", "sweep"]

CHECK_AFTER_SECONDS = 0.15
"""Typing goes on: a check waits until it has paused for so long."""


class FormWishes(RunWishes):
    """A screen with a form, which is checked as it is typed into."""

    def __init__(self, launcher: Launcher | None, *, open_run: OpenRun, open_replay: OpenReplay) -> None:
        super().__init__(launcher, open_run=open_run, open_replay=open_replay)
        self._machine: Machine | None = None
        self._found: list[Problem] = []
        self._estimate: MemoryEstimate | str | None = None
        self._checked: RunConfig | None = None
        self._wanted: tuple[Wanted, RunConfig] | None = None
        """What is to be launched as soon as the form is found to be right, and what stood in it then."""

    # --- checking ---------------------------------------------------------------------------------

    @on(NewRun.Changed)
    def _typed(self, event: NewRun.Changed) -> None:
        if event.setting:
            self._say("")
        self._check()

    @work(exclusive=True, group="check")
    async def _check(self) -> None:
        """Say at once what can be seen at once; ask the launcher when the typing pauses.

        A wish holds for what stood in the form: it is granted or refused by the check of that, and never later.
        """
        self._checked = None
        config, problems = read_config(self._form.values())
        # Word of what was typed may come after the key that launches it.
        if self._wanted is not None and self._wanted[1] != config:
            self._wanted = None
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
        wanted, self._wanted = self._wanted, None
        if wanted is not None and problems:
            self._refuse(problems)
        elif wanted is not None:
            self._go(wanted[0], config)
        if machine is not None and not problems and not self._launching:
            self._estimate = await asyncio.to_thread(launcher.estimate, config, machine)
            self._form.say(problems, self._estimate)

    def _fill_in(self, values: Mapping[str, str]) -> None:
        """Fill in what the machine proposes; whoever has asked for a launch already asks for it with that."""
        self._form.fill(values)
        if self._wanted is not None:
            self._wanted = self._wanted[0], read_config(self._form.values())[0]
        self._check()

    # --- launching --------------------------------------------------------------------------------

    @on(NewRun.Submitted)
    def action_launch(self) -> None:
        """Launch what was checked; what is still being checked is launched when that went well."""
        self._want("run")

    def action_sweep(self) -> None:
        """Put a sweep together of what was checked, or will be."""
        self._want("sweep")

    def _want(self, what: Wanted) -> None:
        if self._launching:
            return
        config, problems = read_config(self._form.values())
        if self._checked == config and not problems:
            self._go(what, config)
            return
        self._wanted = what, config
        self._form.touched.add("prompts")
        self._check()

    def _refuse(self, problems: Sequence[Problem]) -> None:
        """Say where one looks what keeps the wish from being granted, and go there."""
        setting, message = msgspec.structs.astuple(first_of(problems))
        said = in_the_forms_words(message, self._form.values().get(setting, ""))
        self._say(f"mend this first: {name_of(setting)}: {visible(said)}")
        if self.focused is not self._list:
            self._form.go_to(setting)

    def _go(self, what: Wanted, config: RunConfig) -> None:
        if (launcher := self._launcher) is None:
            return
        self._say("")
        if what == "sweep":
            self._plan_sweep(launcher, config)
        else:
            self._launch(launcher, config)

    @work(exclusive=True, group="plan sweep")
    async def _plan_sweep(self, launcher: Launcher, config: RunConfig) -> None:
        from rankdeck.tui.panels.forms.sweep_form import anew
        from rankdeck.tui.screens.sweep import SweepScreen

        prompts, costs = await asyncio.to_thread(lambda: (launcher.prompts(config), launcher.costs(config)))
        if self._launching or not self.is_active or read_config(self._form.values())[0] != config:
            return  # Something else was asked for meanwhile.
        self.app.push_screen(SweepScreen(anew(config, prompts, costs)), partial(self._sweep_planned, launcher, config))

    def _sweep_planned(self, launcher: Launcher, config: RunConfig, plan: SweepPlan | None) -> None:
        if plan is not None:
            from rankdeck.tui.panels.forms.sweep_form import as_sweep

            self._launch(launcher, as_sweep(config, plan))

    def _launch(self, launcher: Launcher, config: RunConfig) -> None:
        self._open(lambda: launcher.launch(config), self._not_launched, launches=True)

    def _not_launched(self, error: Exception) -> None:
        self._form.say_launch(in_the_forms_words(reason(error)), wrong=True)

    @work(exclusive=True, group="launch")
    async def _open(
        self, start: "Callable[[], Source]", complain: Callable[[Exception], object], *, launches: bool = False
    ) -> None:
        """From here to a run: launched, resumed or attached to; whatever keeps it from starting, the user may mend.

        Where it `launches` what stands in the form, that is the new run's from then on, and nothing of it is typed.
        """
        if self._launching:
            return
        self._launching = True
        self._wanted = None
        self._form.allow_launch(False)
        self.workers.cancel_group(self, "check")
        self.workers.cancel_group(self, "plan sweep")
        self._form.say_launch("launching", wrong=False)
        try:
            source = await asyncio.to_thread(start)
            if launches:
                self.workers.cancel_group(self, "copy")
                self._form.touched.clear()
                self._settings_of = source.directory.resolve()
            self._open_run(source, self.seen())
        except Exception as error:
            self._form.say_launch("", wrong=False)
            complain(error)
            self._form.allow_launch(self._checked is not None)
            self._launching = False

    # --- defaults ---------------------------------------------------------------------------------

    @work(exclusive=True, group="copy")
    async def action_defaults(self) -> None:
        """Put back what was taken over from a run, but for what was typed since."""
        if (launcher := self._launcher) is not None:
            self._form.fill(await self._defaults(launcher))
            self._settings_of = None
            self._form.say_taken("", {})
