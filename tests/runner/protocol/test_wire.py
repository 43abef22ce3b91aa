"""The wire and the journal keep their words: what an older rankdeck wrote is still read."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent, Command, FromRank, Greeting, ToRank
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import Snapshot, ToViewer
from tests import ROOT

TAGS = {
    "active_ranks_changed": protocol.ActiveRanksChanged,
    "arrived": protocol.Arrived,
    "batch_failed": protocol.BatchFailed,
    "batch_finished": protocol.BatchFinished,
    "batch_size_changed": protocol.BatchSizeChanged,
    "batch_started": protocol.BatchStarted,
    "cancel": protocol.Cancel,
    "gather_checked": protocol.GatherChecked,
    "gathered": protocol.Gathered,
    "go_on": protocol.GoOn,
    "leave": protocol.Leave,
    "limit": protocol.Limit,
    "log_line": protocol.LogLine,
    "model_progress": protocol.ModelProgress,
    "output": protocol.Output,
    "pause": protocol.Pause,
    "paused": protocol.Paused,
    "rank_capped": protocol.RankCapped,
    "rank_failed": protocol.RankFailed,
    "rank_heard": protocol.RankHeard,
    "rank_hello": protocol.RankHello,
    "rank_lost": protocol.RankLost,
    "rank_phase": protocol.RankPhase,
    "rank_ready": protocol.RankReady,
    "rank_silent": protocol.RankSilent,
    "ranks_launched": protocol.RanksLaunched,
    "ranks_ready": protocol.RanksReady,
    "records_lost": protocol.RecordsLost,
    "refused": protocol.Refused,
    "resume": protocol.Resume,
    "resumed": protocol.Resumed,
    "rows_added": protocol.RowsAdded,
    "run_ended": protocol.RunEnded,
    "run_started": protocol.RunStarted,
    "run_taken_up": protocol.RunTakenUp,
    "set_active_ranks": protocol.SetActiveRanks,
    "set_batch_size": protocol.SetBatchSize,
    "share": protocol.Share,
    "share_cores": protocol.ShareCores,
    "snapshot": Snapshot,
    "start_sweep": protocol.StartSweep,
    "steps": protocol.Steps,
    "stint": protocol.RankAccount,
    "stint_finished": protocol.AccountClosed,
    "stop": protocol.Stop,
    "stopping": protocol.Stopping,
    "sweep_settled": protocol.SweepSettled,
    "sweep_started": protocol.SweepStarted,
    "telemetry_started": protocol.TelemetryStarted,
    "tick": protocol.Tick,
    "trial_finished": protocol.TrialFinished,
    "trial_started": protocol.TrialStarted,
    "trial_warm": protocol.TrialWarm,
    "turn_refused": protocol.TurnRefused,
    "viewer_hello": protocol.ViewerHello,
    "work": protocol.Work,
}
"""Written out by hand: a class may be renamed, its tag may not."""


def test_every_message_keeps_its_tag():
    messages = {kind for union in (AnyEvent, FromRank, ToRank, Greeting, Command, ToViewer) for kind in get_args(union)}
    assert {kind.__struct_config__.tag: kind for kind in messages} == TAGS


@pytest.mark.parametrize(
    "journal",
    [
        ROOT / "tui" / "sources" / "recorded" / "stories.jsonl",
        ROOT / "docs" / "recorded-sweep.jsonl",
        ROOT / "docs" / "recorded-demo.jsonl",
    ],
    ids=lambda path: path.stem,
)
def test_every_line_of_an_older_journal_is_read(journal: Path):
    lines = journal.read_bytes().splitlines()
    events = [msgspec.json.decode(line, type=AnyEvent) for line in lines]
    assert len(events) > 200
    assert (type(events[0]), type(events[-1])) == (protocol.RunStarted, protocol.RunEnded)
    assert [event.__struct_config__.tag for event in events] == [msgspec.json.decode(line)["type"] for line in lines]


def test_a_journal_of_a_run_with_a_setting_that_is_no_more_is_read():
    begun = protocol.RunStarted(at=1.0, name="r", directory="/r", config=RunConfig(prompts="p"), prompts=1)
    line = msgspec.json.decode(msgspec.json.encode(begun))
    line["config"]["compile"] = False
    assert msgspec.json.decode(msgspec.json.encode(line), type=AnyEvent) == begun
