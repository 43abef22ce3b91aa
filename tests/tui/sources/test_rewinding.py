"""A journal at every moment: its pace with waiting left out, and the same state by any way to a moment."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rankdeck.runner import protocol, run_directory, start
from rankdeck.runner.protocol import AnyEvent
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state import RunState, apply, summarise
from rankdeck.runner.sweep.verdict import summarise_sweep
from rankdeck.tui.sources import journal, replay
from rankdeck.tui.sources.client import SocketSource
from rankdeck.tui.sources.journal import Journal, ReplayTimes
from rankdeck.tui.sources.outputs import OutputBook
from rankdeck.tui.sources.replay import Rewinder
from tests import scripted
from tests.recordings import RUNS, journal_of, taken_up_hours_later
from tests.runner.supervisor.test_supervisor import PROMPTS
from tests.scripted import Script

# --- pace ---------------------------------------------------------------------------------------


def paced(events: Sequence[AnyEvent]) -> ReplayTimes:
    result = ReplayTimes()
    for event in events:
        result.add(event)
    result.end()
    return result


def test_loading_is_played_in_seconds_and_work_in_real_time() -> None:
    script = Script().started().launched().loading()
    for _ in range(600):
        script.wait(1).tick()
    script.ready()
    loaded = len(script.events)
    script.round(seconds=5).round(seconds=5).ended()
    result = paced(script.events)
    assert result.seconds[loaded] == pytest.approx(journal.QUIET_SECONDS, abs=0.2)
    work = script.events[-1].at - script.events[loaded].at
    assert result.length - result.seconds[loaded] == pytest.approx(work)
    assert result.left_out == pytest.approx(script.events[loaded].at - scripted.START - journal.QUIET_SECONDS, abs=0.2)


def test_hours_between_two_supervisors_are_skipped() -> None:
    result = paced(taken_up_hours_later().events)
    assert result.recorded > 3 * 3600
    assert result.length < 120


def test_a_pause_is_shortened_only_from_the_end_of_the_batches_in_flight() -> None:
    script = Script(1).started().launched().ready()
    script.begin_batch(0).add(protocol.Paused(reason="asked for", asked=True))
    for _ in range(8):
        script.wait(1).tick()
    script.finish_batch(0, 1, range(16))
    finished = len(script.events) - 1
    for _ in range(100):
        script.wait(1).tick()
    script.add(protocol.Resumed())
    script.begin_batch(0)
    result = paced(script.events)
    assert result.seconds[finished] >= 8
    assert result.length - result.seconds[finished] == pytest.approx(journal.QUIET_SECONDS)


@given(
    st.lists(
        st.tuples(st.floats(-100, 10_000), st.sampled_from(["tick", "start", "finish", "lost", "launch"])), max_size=60
    )
)
def test_time_never_goes_back_and_nothing_takes_longer_than_recorded(steps: list[tuple[float, str]]) -> None:
    kinds: dict[str, AnyEvent] = {
        "tick": protocol.Tick(),
        "start": protocol.BatchStarted(rank=0, batch=1, rows=1),
        "finish": protocol.BatchFailed(rank=0, batch=1, kind="error", error=""),
        "lost": protocol.RankLost(rank=0, cause=""),
        "launch": protocol.RanksLaunched(attempt=1, world_size=1),
    }
    at, events = 1e6, []
    for gap, kind in steps:
        at += gap
        events.append(replace(kinds[kind], at=at))
    result = paced(events)
    assert len(result.seconds) == len(events)
    assert all(before <= after + 1e-9 for before, after in zip(result.seconds, result.seconds[1:], strict=False))
    assert result.length <= result.recorded + 1e-6


# --- the state at every moment ------------------------------------------------------------------


@cache
def fresh(name: str) -> tuple[list[RunState], list[list[int]]]:
    """The state and the answers of a replay from the beginning, after each number of events."""
    states, answers, book = [RunState()], [[]], OutputBook()
    for event in RUNS[name]().events:
        states.append(apply(states[-1], event))
        if isinstance(event, protocol.Output):
            book.add(event.record)
        answers.append([book.key(position, "arrival") for position in range(len(book))])
    return states, answers


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("most", [None, 5])
def test_back_and_forth_shows_what_a_fresh_replay_shows(
    name: str, most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MOST_CHECKPOINTS", 6)  # so that some are dropped, as in a journal of millions
    journal = Journal(journal_of(tmp_path / "events.jsonl", RUNS[name]().events))
    states, answers = fresh(name)
    length = len(journal)
    assert length == len(states) - 1
    rewinder = Rewinder(journal, spacing=3)
    jumps = [length, 0, 1, length // 2, length - 1, length // 3, length // 3 + 1, 2, length, *range(length, 0, -7)]
    for number in jumps:
        while rewinder.go(number, most):
            pass
        assert rewinder.number == number
        assert rewinder.state == states[number]
        book = rewinder.book
        assert [book.key(position, "arrival") for position in range(len(book))] == answers[number]


def test_of_many_answers_the_newest_are_there_after_a_step_back_too(tmp_path: Path) -> None:
    journal = Journal(journal_of(tmp_path / "events.jsonl", scripted.completed().events))
    rewinder = Rewinder(journal, spacing=10, kept=5)
    rewinder.go(len(journal))
    rewinder.go(journal.outputs[40])
    book = rewinder.book
    assert [book.key(position, "arrival") for position in range(len(book))] == list(range(35, 40))
    rewinder.go(journal.outputs[3])
    assert len(rewinder.book) == 3, "there were no more by then"
    rewinder.go(0)
    assert (len(rewinder.book), rewinder.state) == (0, RunState())


def test_going_far_ahead_begins_at_the_nearest_state_that_was_kept(tmp_path: Path) -> None:
    journal = Journal(journal_of(tmp_path / "events.jsonl", scripted.completed().events))
    rewinder = Rewinder(journal, spacing=10)
    rewinder.go(len(journal))
    rewinder.go(5)
    read: list[tuple[int, int]] = []
    events = journal.events
    journal.events = lambda first, last: read.append((first, last)) or events(first, last)  # type: ignore[method-assign,assignment,func-returns-value]
    assert rewinder.go(77)
    assert read == [(70, 77)]
    assert not rewinder.go(77), "nothing has changed"
    assert rewinder.go(80)
    assert rewinder.go(60, most=4)
    assert (rewinder.number, read[1:]) == (60, [(77, 77), (77, 80), (60, 60)])
    assert rewinder.go(60 + 19, most=4)
    assert rewinder.number == 64, "by so many events at most"


@pytest.mark.parametrize("resumed", [False, True])
async def test_the_totals_are_those_of_run_json_to_the_digit(launch, resumed, monkeypatch) -> None:
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.03")
    started = launch(PROMPTS, name="first")
    if resumed:
        async for message in SocketSource(started.directory, started.died).events():
            if isinstance(message, protocol.BatchFinished) and message.batch >= 2:
                break
        started.process.kill()
        started.process.wait(20)
        started = start.resume(started.directory, {"batch_size": 3})
    started.process.wait(20)
    run = run_directory.read_run_file(started.directory)
    journal = Journal(started.directory / run_directory.EVENTS_FILE)
    rewinder = Rewinder(journal)
    rewinder.go(len(journal))
    assert rewinder.state.ended is not None
    assert run.summary == rewinder.state.ended.summary == summarise(rewinder.state)
    assert run.summary.completed == len(rewinder.book) == len(PROMPTS)
    rewinder.go(1)
    rewinder.go(len(journal))
    assert summarise(rewinder.state) == run.summary


async def test_a_replayed_sweep_has_the_figures_of_run_json(launch) -> None:
    plan = SweepPlan(batch_sizes=[1, 4], ranks=[1, 2], repeats=2, least_rounds=2, least_seconds=0.0)
    started = launch(PROMPTS, sweep=plan)
    started.process.wait(60)
    run = run_directory.read_run_file(started.directory)
    journal = Journal(started.directory / run_directory.EVENTS_FILE)
    rewinder = Rewinder(journal)
    rewinder.go(len(journal))
    assert run.sweep is not None
    assert rewinder.state.sweep is not None
    assert run.sweep == summarise_sweep(rewinder.state.sweep)
    rewinder.go(len(journal) // 2)
    assert rewinder.state.sweep is not None
    assert len(rewinder.state.sweep.records) < 8
