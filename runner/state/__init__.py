"""Pure: the state of a run, made from its events."""

from rankdeck.runner.state.reducer import apply
from rankdeck.runner.state.run import (
    DeviceState,
    HistoryPoint,
    LogEntry,
    Mark,
    MarkKind,
    RankState,
    RunState,
    Snapshot,
    StepMark,
    ToViewer,
)
from rankdeck.runner.state.summary import summarise
