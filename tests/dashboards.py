"""What the tests of the dashboard share: scripted dashboards, and waiting for them without a clock."""

import threading
from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot
from textual.widgets import Label

from runner import config
from runner.config import Problem, RunConfig
from tests import scripted
from tests.scripted import Script
from tests.scripted_source import ScriptedSource
from tui.app import RankdeckApp
from tui.client import Source
from tui.text import plain
from tui.widgets.lines import Panel

SIZES = [(60, 18), (80, 24), (120, 40)]
STATES: dict[str, Callable[[], Script]] = {
    "starting": scripted.starting,
    "fetching": scripted.fetching,
    "loading": scripted.loading,
    "running": scripted.running,
    "two_gpus": lambda: scripted.running(2, gpus=2),
    "eight_gpus": lambda: scripted.running(8, gpus=8, prompts=1000),
    "completed": scripted.completed,
    "failed": scripted.failed,
}


async def until(pilot: Pilot[Any], condition: Callable[[], bool]) -> None:
    """Let the app work until `condition` holds; a test that hangs here says which condition by its line."""
    for _ in range(400):
        if condition():
            return
        await pilot.pause(0.01)
    raise AssertionError("the app never got there")


async def settled(pilot: Pilot[Any]) -> None:
    """Everything the source said is in the state, and the state is on the screen."""
    app = pilot.app
    assert isinstance(app, RankdeckApp)
    source = app._source
    assert isinstance(source, ScriptedSource)
    await until(pilot, lambda: source.said_all and app.run_is_shown)
    await pilot.pause()


def dashboard(script: Script) -> RankdeckApp:
    return RankdeckApp(ScriptedSource(script.events))


def panel(app: RankdeckApp, name: str) -> str:
    return plain(app.query_one(f"#{name}", Panel).lines)


def whole_screen(app: RankdeckApp) -> str:
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


class ScriptedLauncher:
    """Says what it is told to of each setting, and starts a scripted run."""

    machine = "2 x NVIDIA H100 80GB HBM3; 64 CPU cores, 504 GiB memory"
    default_ranks = 2

    def __init__(self, error: Exception | None = None) -> None:
        self.launched: list[RunConfig] = []
        self.threads: set[int] = set()
        self._error = error

    def check(self, settings: RunConfig) -> list[Problem]:
        self.threads.add(threading.get_ident())
        problems = config.check(settings)
        if not settings.prompts.endswith(".txt"):
            problems.append(Problem("prompts", f"{settings.prompts or 'nothing'}: there is no such file"))
        return problems

    def launch(self, settings: RunConfig) -> Source:
        if self._error is not None:
            raise self._error
        self.launched.append(settings)
        return ScriptedSource(scripted.running().events)


def said(app: Any, field: str) -> str:
    return str(app.query_one(f"#{field}-said", Label).content)
