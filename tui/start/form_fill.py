"""Fills the form with the settings of an earlier run, or with the defaults. Knows the form and a Launcher, asked in
threads; each of its coroutines may take a second, in which GPUs are counted.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from rankdeck.tui.panels.forms.run_form import FIRST_VALUES, values_of
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.start.form import NewRun
from rankdeck.tui.start.launcher import Launcher

Answer = TypeVar("Answer")


class FormFill:
    """Where the settings in the form come from."""

    def __init__(self, form: NewRun, launcher: Launcher, *, propose: Callable[[Mapping[str, str]], object]) -> None:
        """`propose` fills in values without overwriting what was typed, and has them checked."""
        self._form, self._launcher, self._propose = form, launcher, propose

    async def first(self, run: RecentRun | None) -> None:
        """Propose the settings of the newest run, or the defaults where there is none."""
        if run is None:
            self._propose(await self._defaults())
            return
        self._propose(await self._settings(run))
        self._form.settings_of = run.directory
        self._form.say_taken(run.name, await self._defaults())

    async def again(self, run: RecentRun) -> None:
        """Propose the settings of `run` once more, all at once: a sweep has chosen its setting by now."""
        values, defaults = await self._settings(run), await self._defaults()
        self._propose(values)
        self._form.say_taken(run.name, defaults)

    async def copy(self, run: RecentRun) -> None:
        """Replace what is in the form, even what was typed, by the settings of `run`. Raises what the launcher does."""
        values = await self._settings(run)
        self._form.settings_of = run.directory
        self._form.fill(values, over=True)
        self._form.focus_prompts()
        self._form.say_taken(run.name, await self._defaults())

    async def reset(self) -> None:
        """Put the defaults back in place of a run's settings; what was typed since stays."""
        self._form.fill(await self._defaults())
        self._form.settings_of = None
        self._form.say_taken("", {})

    async def _settings(self, run: RecentRun) -> dict[str, str]:
        return values_of(await self._ask(self._launcher.settings, run))

    async def _defaults(self) -> dict[str, str]:
        return {**FIRST_VALUES, **values_of(await self._ask(self._launcher.first_settings))}

    async def _ask(self, question: Callable[..., Answer], *arguments: object) -> Answer:
        answer = await asyncio.to_thread(question, *arguments)
        if not self._form.is_attached:
            raise asyncio.CancelledError  # the form went away meanwhile, and the app perhaps with it
        return answer
