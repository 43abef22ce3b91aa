"""What the start screen asks of the machine: to look, to check, to start. An interface; MachineLauncher does it."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rankdeck.runner.forecast.cost_model import CostModel
from rankdeck.runner.inputs.memory_estimate import MemoryEstimate
from rankdeck.runner.machine.facts import Facts, Machine, TorchFound
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.tui.sources.runs import RecentRun
from rankdeck.tui.start.folder import Listing

if TYPE_CHECKING:
    from rankdeck.tui.sources.client import Source
    from rankdeck.tui.sources.journal import Journal


class Launcher(Protocol):
    """Every method may block, so each is called in a thread."""

    def machine(self) -> Machine: ...

    def recent(self) -> list[RecentRun]: ...

    def settings(self, run: RecentRun) -> RunConfig:
        """The settings of a run for a new one, with the prompts it had, wherever they are now."""
        ...

    def first_settings(self) -> RunConfig:
        """The defaults: the sample prompts on the demo model."""
        ...

    def check(self, config: RunConfig) -> list[Problem]: ...

    def estimate(self, config: RunConfig, machine: Machine) -> MemoryEstimate | str:
        """The memory that the run needs, or why it is not known."""
        ...

    def prompts(self, config: RunConfig) -> int | None:
        """How many prompts the run has; None if only reading the whole file would tell."""
        ...

    def costs(self, config: RunConfig) -> CostModel | None:
        """What batches took in earlier runs that generated in the same way; None if there were none."""
        ...

    def launch(self, config: RunConfig) -> "Source": ...

    def attach(self, directory: Path) -> "Source": ...

    def resume(self, directory: Path) -> "Source": ...

    def journal(self, directory: Path) -> "Journal": ...

    def report(self, directory: Path) -> Path:
        """Write the report, and return the path of its HTML file."""
        ...

    def folder(self, path: str, hidden: bool) -> Listing: ...

    def examine(self) -> Facts: ...

    async def ask_torch(self) -> TorchFound:
        """What torch sees. Takes seconds, in a separate process."""
        ...
