"""What the tests of the dashboard share: scripted dashboards, and waiting for them without a clock."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from textual.pilot import Pilot
from textual.widgets import Label

from rankdeck.runner.forecast.cost_model import CostModel
from rankdeck.runner.inputs.memory_estimate import MemoryEstimate, PromptSizes, estimate
from rankdeck.runner.inputs.model_config import DEMO, ModelShape
from rankdeck.runner.machine.facts import Facts, Machine, TorchFound
from rankdeck.runner.protocol import DeviceSample, config
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.tui.app.app import RankdeckApp
from rankdeck.tui.sources.client import Source
from rankdeck.tui.sources.journal import SAMPLE, Journal
from rankdeck.tui.sources.replay import ReplaySource
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.start.folder import Listing, read_folder
from rankdeck.tui.widgets.lines import Panel
from rankdeck.tui.words.text import plain
from tests import scripted
from tests.scripted import Script
from tests.scripted_source import ScriptedSource

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


GIB = 2**30
TWO_GPUS = Machine(
    host="deck",
    cores=64,
    memory_free_bytes=480 * GIB,
    memory_total_bytes=504 * GIB,
    gpus=tuple(
        DeviceSample(
            index=number,
            uuid=f"GPU-{number}",
            name="NVIDIA H100 80GB HBM3",
            memory_used_bytes=2 * GIB,
            memory_free_bytes=78 * GIB,
            memory_total_bytes=80 * GIB,
        )
        for number in range(2)
    ),
    seen=(0, 1),
    driver="570.86",
    cuda=(12, 8),
)


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
    source = app.followed.source
    assert isinstance(source, ScriptedSource | ReplaySource)

    def said_all() -> bool:
        return source.caught_up if isinstance(source, ReplaySource) else source.said_all

    await until(pilot, lambda: said_all() and app.run_is_shown)
    await still(pilot)


async def still(pilot: Pilot[Any]) -> None:
    """The screen no longer changes: what was asked of it, and what that asked in turn, is drawn."""
    await pilot.pause()
    before = None
    for _ in range(50):
        await pilot.pause()
        if (now := whole_screen(pilot.app)) == before:
            return
        before = now


def dashboard(script: Script) -> RankdeckApp:
    return RankdeckApp(ScriptedSource(script.events))


def panel(app: RankdeckApp, name: str) -> str:
    return plain(app.query_one(f"#{name}", Panel).lines)


def whole_screen(app: RankdeckApp) -> str:
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


class ScriptedLauncher:
    """Says what it is told to of each setting and of the machine, and starts a scripted run."""

    def __init__(
        self,
        error: Exception | None = None,
        *,
        runs: Sequence[RecentRun] = (),
        machine: Machine = TWO_GPUS,
        facts: Facts | None = None,
        shape: ModelShape | str = DEMO,
    ) -> None:
        self.launched: list[RunConfig] = []
        self.asked: list[tuple[str, Path]] = []
        self.threads: set[int] = set()
        self.runs = list(runs)
        self.known_costs: CostModel | None = None
        self._machine = machine
        self._facts = facts or Facts(machine=machine)
        self._shape = shape
        self._error = error

    def machine(self) -> Machine:
        return self._machine

    def recent(self) -> list[RecentRun]:
        self.threads.add(threading.get_ident())
        return list(self.runs)

    def settings(self, run: RecentRun) -> RunConfig:
        assert run.config is not None
        return run.config

    def first_settings(self) -> RunConfig:
        return RunConfig(prompts="stories.txt", ranks=2)

    def check(self, settings: RunConfig) -> list[Problem]:
        self.threads.add(threading.get_ident())
        problems = config.check(settings)
        if not settings.prompts.endswith(".txt"):
            problems.append(Problem("prompts", f"{settings.prompts or 'nothing'}: there is no such file"))
        return problems

    def estimate(self, settings: RunConfig, machine: Machine) -> MemoryEstimate | str:
        self.threads.add(threading.get_ident())
        if isinstance(self._shape, str):
            return self._shape
        return estimate(self._shape, settings, PromptSizes(100, 30), machine.free, machine.whole)

    def prompts(self, settings: RunConfig) -> int | None:
        self.threads.add(threading.get_ident())
        return settings.limit or 100

    def costs(self, settings: RunConfig) -> CostModel | None:
        return self.known_costs

    def launch(self, settings: RunConfig) -> Source:
        self._fail()
        self.launched.append(settings)
        return ScriptedSource(scripted.running().events)

    def attach(self, directory: Path) -> Source:
        return self._start("attach", directory)

    def resume(self, directory: Path) -> Source:
        return self._start("resume", directory)

    def journal(self, directory: Path) -> Journal:
        self._note("journal", directory)
        return Journal(SAMPLE)

    def report(self, directory: Path) -> Path:
        self._note("report", directory)
        return directory / "report.html"

    def folder(self, path: str, hidden: bool) -> Listing:
        self.threads.add(threading.get_ident())
        return read_folder(path, hidden)

    def examine(self) -> Facts:
        self.threads.add(threading.get_ident())
        return self._facts

    async def ask_torch(self) -> TorchFound:
        return TorchFound(available=True, cuda="12.8")

    def _start(self, wish: str, directory: Path) -> Source:
        self._note(wish, directory)
        return ScriptedSource(scripted.running().events)

    def _note(self, wish: str, directory: Path) -> None:
        self._fail()
        self.threads.add(threading.get_ident())
        self.asked.append((wish, directory))

    def _fail(self) -> None:
        if self._error is not None:
            raise self._error


def said(app: Any, field: str) -> str:
    return str(app.query_one(f"#{field}-said", Label).content)
