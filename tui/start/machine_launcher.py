"""The start screen's Launcher on this machine: a thin, blocking layer over the job.

Knows which module of the job answers what. Does not know how the answers are shown.
"""

import io
import os
from functools import cached_property
from pathlib import Path

import msgspec

from rankdeck.runner import checks, run_directory, start
from rankdeck.runner.forecast.cost_model import CostModel
from rankdeck.runner.inputs import model_shape
from rankdeck.runner.inputs.memory_estimate import MemoryEstimate
from rankdeck.runner.machine import examine
from rankdeck.runner.machine.facts import Facts, Machine, TorchFound
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.tui.panels.forms.sweep_form import without_sweep
from rankdeck.tui.sources import journal, runs
from rankdeck.tui.sources.client import SocketSource, Source
from rankdeck.tui.sources.journal import Journal
from rankdeck.tui.sources.runs import RecentRun, sample_prompts
from rankdeck.tui.start.folder import Listing, read_folder


class MachineLauncher:
    """A Launcher. The GPUs that a run sees are counted once, since that may take a second."""

    @cached_property
    def _device(self) -> str:
        return checks.default_device()

    @cached_property
    def _ranks(self) -> int:
        return checks.default_ranks()

    def machine(self) -> Machine:
        return examine.machine()

    def recent(self) -> list[RecentRun]:
        return runs.recent()

    def settings(self, run: RecentRun) -> RunConfig:
        """If the file of prompts is gone, or was standard input, the run's own copy takes its place."""
        if run.config is None:
            raise run_directory.RunFileError(run.problem or f"{run.name} has no settings")
        config = without_sweep(run.config, run.chosen)
        if config.device == self._device:
            config = msgspec.structs.replace(config, device="auto")  # which is the same here
        if config.prompts == "-" or not Path(config.prompts).is_file():
            kept = run.directory / run_directory.PROMPTS_FILE
            if kept.is_file():
                return msgspec.structs.replace(config, prompts=str(kept), column=None)
        return config

    def first_settings(self) -> RunConfig:
        path = sample_prompts()
        try:
            # The shorter path, since people read it.
            shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
        except OSError:  # the working directory is gone
            shown = str(path)
        return RunConfig(prompts=shown, model="demo", ranks=self._ranks, max_new_tokens=50)

    def check(self, config: RunConfig) -> list[Problem]:
        """Standard input is the dashboard's keyboard: no prompts come from there, and none are to be given there."""
        problems = [
            msgspec.structs.replace(each, message=each.message.replace("; give it as standard input: -", ""))
            for each in checks.check(config)
        ]
        if config.prompts.strip() == "-":
            problems.append(Problem("prompts", "standard input is the keyboard here; name a file"))
        return problems

    def estimate(self, config: RunConfig, machine: Machine) -> MemoryEstimate | str:
        return checks.estimate_memory(config, machine)

    def prompts(self, config: RunConfig) -> int | None:
        return model_shape.count_of(config.prompts, config.column, config.limit)

    def costs(self, config: RunConfig) -> CostModel | None:
        return runs.costs_like(config, self._device)

    def launch(self, config: RunConfig) -> Source:
        started = start.launch(config, stdin=io.BytesIO())
        return SocketSource(started.directory, started.died)

    def attach(self, directory: Path) -> Source:
        return SocketSource(directory)

    def resume(self, directory: Path) -> Source:
        started = start.resume(directory, {})
        return SocketSource(started.directory, started.died)

    def journal(self, directory: Path) -> Journal:
        return journal.find(str(directory))

    def report(self, directory: Path) -> Path:
        from rankdeck.tui.report import write  # only here is the template engine needed

        return write.put(write.make(directory), directory)[0]

    def folder(self, path: str, hidden: bool) -> Listing:
        return read_folder(path, hidden)

    def examine(self) -> Facts:
        return examine.facts()

    async def ask_torch(self) -> TorchFound:
        return await examine.ask_torch()
