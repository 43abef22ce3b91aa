"""A run's event stream without files, on a clock that is the test's: what was emitted is kept in `seen`."""

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState, apply


class ClockedEvents:
    """The events of a run of `prompts` prompts; `at` is the time now."""

    def __init__(self, config: RunConfig, prompts: int) -> None:
        self.state, self.at = RunState(), 0.0
        self.seen: list = []
        self.emit(protocol.RunStarted(name="n", directory="/d", config=config, prompts=prompts))
        self.emit(protocol.RanksLaunched(attempt=1, world_size=config.ranks))

    def emit(self, event: protocol.AnyEvent) -> None:
        event = msgspec.structs.replace(event, at=self.at)
        self.seen.append(event)
        self.state = apply(self.state, event)

    def log(self, source: str, text: str) -> None:
        self.emit(protocol.LogLine(source=source, text=text))

    def ready(self, *reports: protocol.RankReady) -> None:
        for report in reports:
            self.emit(report)
        self.emit(protocol.RanksReady())

    def of(self, kind: type) -> list:
        """What was emitted of a kind."""
        return [event for event in self.seen if isinstance(event, kind)]
