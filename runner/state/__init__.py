"""Pure: the state of a run, made from its events."""

from runner.state.reducer import apply
from runner.state.run import (
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
from runner.state.summary import summarise
