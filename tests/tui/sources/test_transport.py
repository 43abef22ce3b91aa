"""A replay's position, speed and ends, to the second; the pace of a journal at its bounds; finding a journal."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol import AnyEvent
from rankdeck.runner.protocol.config import MAX_RANKS
from rankdeck.runner.state import Snapshot
from rankdeck.tui.sources import journal, replay
from rankdeck.tui.sources.journal import LATEST, Journal, JournalError, ReplayTimes, find
from rankdeck.tui.sources.replay import FAR, FASTEST, SLICE, SLOWEST, ReplayedRun, ReplaySource
from tests import scripted
from tests.recordings import journal_of
from tests.tui.screens.test_replay_screen import Clock

EVENTS = scripted.completed().events


@pytest.fixture
def recorded(tmp_path: Path) -> Journal:
    return Journal(journal_of(tmp_path / "events.jsonl", EVENTS))


def test_a_replay_begins_where_and_as_it_was_asked_to(recorded):
    clock = Clock()
    for position, playing, speed in ((0.0, True, 1.0), (3.0, False, 4.0), (1e9, True, 1.0)):
        source = ReplaySource(recorded, position=position, playing=playing, speed=speed, clock=clock)
        found = source.transport
        assert (found.playing, found.speed, found.length) == (playing, speed, recorded.length)
        assert found.position == min(position, recorded.length)
        assert found.ended == (position > recorded.length)
        assert found.left_out == recorded.left_out
        assert (source.directory, source.caught_up) == (recorded.path.parent, False)


def test_pausing_stops_the_time_and_playing_goes_on_with_it(recorded):
    clock = Clock()
    source = ReplaySource(recorded, clock=clock)
    clock.now += 2
    source.play_or_pause()
    clock.now += 100
    assert (source.transport.playing, source.transport.position) == (False, pytest.approx(2))
    source.play_or_pause()
    clock.now += 1
    assert (source.transport.playing, source.transport.position) == (True, pytest.approx(3))
    clock.now -= 50
    assert source.transport.position >= 2, "a clock that goes back turns nothing back before the last key"


@pytest.mark.parametrize("playing", [True, False])
def test_play_at_the_end_plays_from_the_beginning(recorded, playing):
    clock = Clock()
    source = ReplaySource(recorded, position=recorded.length, playing=playing, clock=clock)
    source.play_or_pause()
    assert (source.transport.playing, source.transport.position) == (True, 0.0)


def test_the_speed_doubles_and_halves_between_its_limits_and_moves_nothing(recorded):
    clock = Clock()
    source = ReplaySource(recorded, clock=clock)
    clock.now += 1
    speeds = []
    while source.change_speed(up=True):
        speeds.append(source.transport.speed)
        assert source.transport.position == pytest.approx(1)
    assert speeds == [2, 4, 8, 16, 32, FASTEST]
    while source.change_speed(up=False):
        speeds.append(source.transport.speed)
    assert speeds[6:] == [32, 16, 8, 4, 2, 1, 0.5, SLOWEST]
    assert not source.change_speed(up=False)
    assert source.transport.position == pytest.approx(1)
    clock.now += 4
    assert source.transport.position == pytest.approx(2)


def test_only_a_far_jump_is_called_seeking_and_shows_how_far_it_has_come(tmp_path):
    ticks = [replace(protocol.Tick(), at=EVENTS[0].at + number / 1000) for number in range(FAR + 5)]
    long = Journal(journal_of(tmp_path / "events.jsonl", [EVENTS[0], *ticks]))
    source = ReplaySource(long, playing=False, clock=Clock())
    source.seek_to(long.moment(FAR - 1))
    assert not source.transport.seeking
    source.seek_to(long.length)
    assert (source.transport.seeking, source.transport.ended, source.transport.position) == (True, False, 0.0)
    source._rewinder.go(len(long), SLICE)
    assert (source.transport.seeking, source.transport.ended) == (False, True)
    source.seek_to(0.0)
    assert not source.transport.ended


async def test_a_replay_that_stands_still_says_nothing_until_it_is_turned_to(recorded):
    source = ReplaySource(recorded, position=1.0, playing=False, clock=Clock())
    messages = source.events()
    first = await anext(messages)
    assert isinstance(first, Snapshot)
    assert source.caught_up
    second = asyncio.ensure_future(anext(messages))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not second.done()
    source.seek_to(recorded.length)
    last = await asyncio.wait_for(second, 5)
    assert isinstance(last, Snapshot)
    assert last.state.ended is not None
    await messages.aclose()


async def test_a_far_jump_of_a_paused_replay_is_shown_piece_by_piece_until_it_is_there(recorded, monkeypatch):
    monkeypatch.setattr(replay, "SLICE", 5)
    monkeypatch.setattr(replay, "FAR", 20)
    source = ReplaySource(recorded, playing=False, position=recorded.length, clock=Clock())
    shown: list[tuple[float, bool]] = []
    async with asyncio.timeout(10):
        async for message in source.events():
            assert isinstance(message, Snapshot)
            shown.append((source.transport.position, source.transport.seeking))
            if source.caught_up:
                break
    assert len(shown) == -(-len(EVENTS) // 5)
    for number, (position, seeking) in enumerate(shown, 1):
        read = min(5 * number, len(EVENTS))
        far = len(EVENTS) - read > 20
        assert seeking is far
        assert position == (recorded.moment(read - 1) if far else recorded.length)


async def test_a_replayed_run_alerts_nobody_and_takes_no_commands(recorded):
    source = ReplaySource(recorded, playing=False, position=recorded.length / 2, clock=Clock())
    run = ReplayedRun(source)
    following = run.follow()
    assert (await anext(following)).alerts == []
    assert run.state.ended is None
    assert run.goes_on
    assert not run.steers
    source.seek_to(recorded.length)
    assert (await anext(following)).alerts == [], "its end is no news"
    assert run.state.ended is not None
    assert run.book is source.book


# --- the pace -------------------------------------------------------------------------------------


def paced(*events: tuple[float, AnyEvent]) -> ReplayTimes:
    times = ReplayTimes()
    for at, event in events:
        times.add(replace(event, at=at))
    times.end()
    return times


TICK, BEGIN = protocol.Tick(), protocol.BatchStarted(rank=0, batch=1, rows=1)
FINISH = protocol.BatchFailed(rank=0, batch=1, kind="error", error="")


def test_no_gap_plays_longer_than_two_seconds_and_shorter_ones_as_they_are():
    assert list(paced((100, BEGIN), (101.5, TICK), (103.5, TICK), (106, TICK)).seconds) == [0, 1.5, 3.5, 5.5]
    gone = paced((100, BEGIN), (90, TICK), (91, TICK))
    assert (list(gone.seconds), gone.recorded, gone.left_out) == ([0, 0, 1], 1, 0)


def test_quiet_plays_in_four_seconds_at_most_and_work_before_and_after_as_it_was():
    quiet = [(102.0 + number, TICK) for number in range(8)]
    times = paced((100, BEGIN), (101, FINISH), *quiet, (110, BEGIN), (111, TICK))
    assert times.seconds[1] == 1
    assert times.seconds[-2] == pytest.approx(1 + journal.QUIET_SECONDS)
    assert times.length == pytest.approx(2 + journal.QUIET_SECONDS)
    assert (times.recorded, times.left_out) == (11, pytest.approx(5))
    short = paced((100, BEGIN), (101, FINISH), (103, TICK), (105, BEGIN), (106, TICK))
    assert list(short.seconds) == [0, 1, 3, 5, 6], "just four seconds"


@pytest.mark.parametrize(
    "end",
    [
        protocol.BatchFailed(rank=0, batch=1, kind="error", error=""),
        protocol.RankLost(rank=0, cause=""),
        protocol.RanksLaunched(attempt=1, world_size=1),
    ],
)
def test_a_batch_that_is_taken_back_is_no_longer_at_work(end):
    ticks = [(102.0 + number, TICK) for number in range(9)]
    assert paced((100, BEGIN), (101, end), *ticks).length == pytest.approx(1 + journal.QUIET_SECONDS)
    other = replace(end, rank=1) if not isinstance(end, protocol.RanksLaunched) else TICK
    assert paced((100, BEGIN), (101, other), *ticks).length == pytest.approx(10), "rank 0 is at work"


def test_nothing_has_no_length():
    assert (ReplayTimes().length, ReplayTimes().left_out) == (0.0, 0.0)
    ReplayTimes().end()


# --- a journal ------------------------------------------------------------------------------------


def test_events_are_numbered_from_0_and_found_by_their_moment(recorded):
    assert len(recorded) == len(EVENTS)
    assert list(recorded.events()) == EVENTS
    assert list(recorded.events(2, 5)) == EVENTS[2:5]
    assert list(recorded.events(len(EVENTS) - 1, 10**9)) == EVENTS[-1:]
    assert recorded.outputs.tolist() == [n for n, event in enumerate(EVENTS) if isinstance(event, protocol.Output)]
    assert recorded.number_at(-0.1) == 0
    assert recorded.number_at(recorded.length) == len(EVENTS)
    for number in (0, len(EVENTS) // 2):
        assert recorded.number_at(recorded.moment(number)) > number


def test_a_line_longer_than_any_event_is_damaged_and_no_more_of_it_is_read(tmp_path, monkeypatch):
    path = journal_of(tmp_path / "events.jsonl", EVENTS[:2], b"x" * 5000)
    monkeypatch.setattr(journal, "LONGEST", 4000)
    with pytest.raises(JournalError, match=r"events\.jsonl:3: damaged, not an event"):
        Journal(path)
    monkeypatch.setattr(journal, "LONGEST", 5001)
    found = Journal(path)
    assert len(found) == 2
    assert found.notes == [f"{path}:3: the last line is only half written, and left out"]


def test_a_journal_that_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(JournalError, match=r"^/.*/nowhere: cannot be read: No such file or directory$"):
        Journal(tmp_path / "nowhere")


@pytest.mark.parametrize(("at", "fine"), [(0.0, True), (LATEST, True), (-0.5, False), (LATEST * 1.01, False)])
def test_every_time_that_a_run_can_have_is_taken(tmp_path, at, fine):
    path = journal_of(tmp_path / "events.jsonl", [replace(EVENTS[0], at=at)])
    if fine:
        assert len(Journal(path)) == 1
    else:
        with pytest.raises(JournalError, match=r"events\.jsonl:1: damaged: .* is no time; to replay the rest"):
            Journal(path)


@pytest.mark.parametrize("ranks", [MAX_RANKS, MAX_RANKS + 1])
def test_as_many_ranks_as_there_can_be_are_taken(tmp_path, ranks):
    launched = protocol.RanksLaunched(at=EVENTS[0].at, attempt=1, world_size=ranks)
    path = journal_of(tmp_path / "events.jsonl", [EVENTS[0], launched])
    if ranks == MAX_RANKS:
        assert len(Journal(path)) == 2
    else:
        with pytest.raises(JournalError, match=r"events\.jsonl:2: damaged: 257 ranks are more than there can be"):
            Journal(path)


def test_a_journal_is_found_by_its_run_its_directory_or_its_own_path(tmp_path):
    run = run_directory.runs_directory() / "mine"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    with pytest.raises(JournalError, match=r"mine: has no events.jsonl, so there is nothing to replay"):
        find("mine")
    inside = journal_of(run / "events.jsonl", EVENTS)
    alone = journal_of(tmp_path / "copy.jsonl", EVENTS)
    (tmp_path / "folder").mkdir()
    in_folder = journal_of(tmp_path / "folder" / "events.jsonl", EVENTS)
    for name, path in (("mine", inside), (str(run), inside), (str(alone), alone), (str(in_folder.parent), in_folder)):
        assert find(name).path == path
    with pytest.raises(JournalError, match="there is no run called 'nobody'"):
        find("nobody")
