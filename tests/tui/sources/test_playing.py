"""A replay while it plays: where it is after each seek, and how a journal stops."""

import os
from pathlib import Path

import pytest

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.state import Snapshot, apply
from rankdeck.tui.plain.view import PlainView
from rankdeck.tui.sources.client import SourceError
from rankdeck.tui.sources.followed_run import FollowedRun
from rankdeck.tui.sources.journal import SAMPLE, Journal, how_it_stops
from rankdeck.tui.sources.replay import ReplaySource
from tests import scripted
from tests.recordings import journal_of, taken_up_hours_later
from tests.tui.screens.test_replay_screen import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def playing(clock: Clock) -> ReplaySource:
    return ReplaySource(Journal(SAMPLE), clock=clock)


def test_a_playing_replay_goes_on_from_where_it_was_sought_to(playing: ReplaySource, clock: Clock) -> None:
    clock.now += 5
    playing.seek_by(10)
    assert playing.transport.position == pytest.approx(15)
    clock.now += 2
    assert playing.transport.position == pytest.approx(17), "it plays on from there, and counts no second twice"
    playing.seek_by(-10)
    clock.now += 1
    assert playing.transport.position == pytest.approx(8)
    playing.seek_to(30)
    clock.now += 1
    assert playing.transport.position == pytest.approx(31)
    assert playing.transport.playing


def test_seeking_counts_seconds_of_the_replay_at_any_speed(playing: ReplaySource, clock: Clock) -> None:
    playing.change_speed(up=True)
    playing.change_speed(up=True)
    clock.now += 2
    playing.seek_by(10)
    assert playing.transport.position == pytest.approx(18), "two seconds at 4x, and ten"
    clock.now += 1
    assert playing.transport.position == pytest.approx(22)


def test_seeking_stops_at_both_ends_and_plays_on_from_the_beginning(playing: ReplaySource, clock: Clock) -> None:
    playing.seek_by(-99)
    assert playing.transport.position == 0
    clock.now += 3
    assert playing.transport.position == pytest.approx(3)
    playing.seek_by(9999)
    clock.now += 3
    assert playing.transport.position == playing.journal.length
    playing.seek_by(-10)
    clock.now += 4
    assert playing.transport.position == pytest.approx(playing.journal.length - 6), "it had not been paused by the end"


async def test_each_seek_of_a_playing_replay_shows_the_state_of_that_moment(
    playing: ReplaySource, clock: Clock
) -> None:
    run = FollowedRun(playing, steerable=False, live=False)
    messages = playing.events()
    for seek, wait in ((20, 1), (-9, 2), (40, 0), (-99, 5)):
        playing.seek_by(seek)
        clock.now += wait
        while not playing.caught_up:
            message = await anext(messages)
            assert isinstance(message, Snapshot)
            run.state = message.state
        number = playing.journal.number_at(playing.transport.position)
        state = scripted.RunState()
        for event in playing.journal.events(0, number):
            state = apply(state, event)
        assert run.state == state
    await messages.aclose()


async def test_a_file_that_was_changed_while_it_played_is_told_with_its_line(tmp_path: Path, clock: Clock) -> None:
    path = journal_of(tmp_path / "events.jsonl", scripted.completed().events)
    source = ReplaySource(Journal(path), clock=clock)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(SourceError, match=r"events\.jsonl:1: was changed while it was replayed"):
        await anext(source.events())


# --- how a journal stops --------------------------------------------------------------------------


def stops(tmp_path: Path, events: list[protocol.AnyEvent]) -> str:
    return how_it_stops(Journal(journal_of(tmp_path / "events.jsonl", events)))


def test_a_run_that_ended_was_taken_up_and_then_lost_its_supervisor_has_no_end(tmp_path: Path) -> None:
    """The end of its first supervisor is not the run's."""
    stopped = scripted.running().ended("stopped", "stopped")
    assert stops(tmp_path, stopped.events) == ""
    before = stopped.state
    again = protocol.RunTakenUp(
        config=scripted.config(),
        completed=before.completed,
        failed=0,
        prompt_tokens=before.prompt_tokens,
        output_tokens=before.output_tokens,
    )
    lost = stopped.wait(60).add(again).launched().loading()
    assert stops(tmp_path, lost.events) == "supervisor was lost"
    lock = run_directory.hold_lock(tmp_path)
    try:
        assert stops(tmp_path, lost.events) == "the run goes on"
    finally:
        os.close(lock)
    assert stops(tmp_path, lost.ready().ended().events) == ""


def test_a_run_taken_up_is_replayed_to_its_second_end() -> None:
    script = taken_up_hours_later()
    lines: list[str] = []
    view = PlainView(lines.append)
    for event in script.events:
        view.show(event)
    done = next(event.completed for event in script.events if isinstance(event, protocol.RunTakenUp))
    assert [line for line in lines if f"taken up again: {done} of 100 prompts are done" in line]
    assert [line for line in lines if "100 of 100 prompts completed" in line]
