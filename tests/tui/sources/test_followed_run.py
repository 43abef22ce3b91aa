"""A run that is followed: which of its answers are read from disk, and when."""

import pytest

from rankdeck.runner.state import RunState, Snapshot
from rankdeck.tui.sources import followed_run
from rankdeck.tui.sources.client import SourceError
from rankdeck.tui.sources.followed_run import FollowedRun
from tests.runner.state.test_state import output
from tests.scripted_source import ScriptedSource


async def test_answers_on_disk_are_read_after_a_snapshot_unless_all_that_can_be_listed_are_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(followed_run, "KEPT", 3)
    many = Snapshot(state=RunState(prompts=1000, completed=900))
    messages = [output(1, 5), output(2, 5), many, output(3, 5), many]
    run = FollowedRun(ScriptedSource(messages, error=SourceError("over")), earlier=lambda _: [], live=False)
    missing = [reaction.answers_missing async for reaction in run.follow()]
    assert missing == [False, False, True, False, False], "a file of a million is not read at every snapshot"
