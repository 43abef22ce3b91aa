"""A run that is followed: what its messages mean to a viewer, who may steer it, which answers are read from disk."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.state import RunState, Snapshot, ToViewer, apply
from rankdeck.tui.sources import followed_run
from rankdeck.tui.sources.client import SocketSource, SourceError
from rankdeck.tui.sources.followed_run import FollowedRun, Reaction
from tests import scripted
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


EARLIER = [scripted.record(index) for index in (40, 41)]


async def followed(run: FollowedRun) -> list[Reaction]:
    return [reaction async for reaction in run.follow()]


def a_run(*messages: ToViewer, why: str | None = "over", **how: Any) -> FollowedRun:
    return FollowedRun(ScriptedSource(messages, error=SourceError(why) if why is not None else None), **how)


async def test_a_run_that_can_no_longer_be_watched_says_why_and_alerts_unless_it_is_recorded() -> None:
    events = scripted.running().events
    live = a_run(*events, why="it is gone")
    *_, last = await followed(live)
    assert live.lost == "it is gone"
    assert last == Reaction(["calm-harbour can no longer be watched: it is gone"], answers_missing=False)
    assert not live.goes_on
    recorded = a_run(*events, why="it is gone", live=False)
    reactions = await followed(recorded)
    assert len(reactions) == len(events)
    assert not any(reaction.alerts for reaction in reactions)
    assert recorded.lost == "it is gone"


async def test_a_viewer_that_is_refused_hears_why_and_gets_no_state() -> None:
    run = a_run(protocol.Refused(reason="too many viewers"), why=None)
    reaction = await anext(run.follow())
    assert reaction == Reaction([], answers_missing=False)
    assert (run.lost, run.final_state, run.dirty, run.goes_on) == ("too many viewers", None, True, False)


async def test_the_end_is_alerted_to_those_who_saw_the_run_go_on_and_not_to_those_who_came_after_it() -> None:
    events = scripted.completed().events
    assert any(
        "has completed" in said for reaction in await followed(a_run(*events, why=None)) for said in reaction.alerts
    )
    late = a_run(scripted.completed().snapshot())
    assert (await followed(late))[0].alerts == []
    recorded = await followed(a_run(*events, why=None, live=False))
    assert not any(reaction.alerts for reaction in recorded)


async def test_figures_and_answers_are_no_news_and_everything_else_is() -> None:
    for message, news in (
        (protocol.Tick(at=1), False),
        (output(1, 5), False),
        (protocol.LogLine(at=1, source="x", text="y"), True),
        (Snapshot(state=RunState()), True),
        (protocol.Refused(reason="no"), True),
    ):
        run = a_run(message, why=None)
        assert (run.dirty, run.news, run.final_state) == (False, False, None)
        await anext(run.follow())
        assert (run.dirty, run.news) == (True, news), message
    run = a_run(protocol.LogLine(at=1, source="x", text="y"), protocol.Tick(at=2))
    await followed(run)
    assert run.news, "figures do not take the news away"


async def test_answers_come_into_the_book_and_states_add_up() -> None:
    script = scripted.running()
    run = a_run(*script.events)
    await followed(run)
    assert run.final_state == run.state == script.state
    assert len(run.book) == script.state.done > 0


async def test_a_run_takes_commands_only_from_those_who_may_steer_and_only_while_it_goes_on() -> None:
    for how, messages, why, takes in (
        ({}, scripted.running().events, None, True),
        ({"steerable": False}, scripted.running().events, None, False),
        ({}, scripted.completed().events, None, False),
        ({}, scripted.running().events, "gone", False),
    ):
        source = ScriptedSource(messages, error=SourceError(why) if why else None)
        run = FollowedRun(source, **how)  # type: ignore[arg-type]
        following = run.follow()
        for _ in messages:
            await anext(following)
        if why:
            await anext(following)
        await run.ask(protocol.Pause())
        assert run.steers is takes
        assert source.sent == ([protocol.Pause()] if takes else [])


async def test_without_a_run_there_is_nothing_to_watch_or_to_steer() -> None:
    run = FollowedRun(None, earlier=lambda _: EARLIER)
    assert await followed(run) == []
    await run.ask(protocol.Pause())
    assert (run.directory, run.goes_on, run.steers, run.final_state) == (None, False, False, None)
    assert run.stored_answers() is None
    assert list(run.newest_stored()) == []


async def test_whoever_has_left_asks_nothing_more() -> None:
    run = a_run(*scripted.running().events, why=None)
    source = run.source
    assert isinstance(source, ScriptedSource)
    run.let_go()
    await run.ask(protocol.Pause())
    assert source.sent == []
    assert (run.steers, run.directory) == (False, None)


def test_the_newest_answers_on_disk_are_read_from_the_runs_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def earlier(directory: Path) -> list[OutputRecord]:
        asked.append(directory)
        return EARLIER

    run = a_run(earlier=earlier)
    assert list(run.stored_answers() or ()) == EARLIER
    assert asked == [run.directory] == [Path(scripted.DIRECTORY)]
    monkeypatch.setattr(followed_run, "KEPT", 1)
    assert list(run.newest_stored()) == EARLIER[1:]
    assert a_run().stored_answers() is None
    run.load(EARLIER)
    assert (len(run.book), run.dirty) == (2, True)


async def test_answers_are_missing_only_where_there_is_somewhere_to_read_them() -> None:
    snapshot = Snapshot(state=RunState(prompts=9, completed=4))
    for how, missing in (({"earlier": lambda _: []}, True), ({}, False)):
        assert (await followed(a_run(snapshot, **how)))[0].answers_missing is missing  # type: ignore[arg-type]
    whole = a_run(output(1, 5), Snapshot(state=RunState(prompts=9, completed=1)), earlier=lambda _: [])
    assert not any(reaction.answers_missing for reaction in await followed(whole))


async def test_answers_that_are_missing_are_read_at_the_end_again_and_not_at_every_event() -> None:
    *before, end = scripted.completed().events
    assert isinstance(end, protocol.RunEnded)
    state = RunState()
    for event in before:
        state = apply(state, event)
    tick = protocol.Tick(at=end.at)
    reactions = await followed(a_run(Snapshot(state=state), tick, end, why=None, earlier=lambda _: []))
    assert [reaction.answers_missing for reaction in reactions] == [True, False, True]


async def test_a_knob_that_the_run_has_confirmed_is_turned_from_the_runs_own_value_again() -> None:
    script = scripted.running()
    turned = protocol.BatchSizeChanged(at=script.at, batch_size=32, auto=False, reason="as asked for")
    elsewhere = protocol.BatchSizeChanged(at=script.at, batch_size=8, auto=False, reason="by another viewer")
    run = a_run(*script.events, turned, elsewhere, why=None)
    following = run.follow()
    for _ in script.events:
        await anext(following)
    assert run.knobs.turn_batch_size(run.state, up=True) == protocol.SetBatchSize(batch_size=32)
    await anext(following)
    await anext(following)
    assert run.knobs.turn_batch_size(run.state, up=True) == protocol.SetBatchSize(batch_size=16)


async def test_a_silent_supervisor_is_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: SocketSource) -> AsyncIterator[ToViewer]:
        assert self.on_silence is not None
        self.on_silence("nothing comes")
        return
        yield

    monkeypatch.setattr(SocketSource, "events", nothing)
    run = FollowedRun(SocketSource(tmp_path))
    assert run.silence is None
    await followed(run)
    assert (run.silence, run.dirty, run.news) == ("nothing comes", True, True)
