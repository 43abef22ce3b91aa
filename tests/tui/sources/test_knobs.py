"""The knobs of a dashboard: what a key press asks for, also before the run has confirmed the one before."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from rankdeck.runner.protocol import Pause, Resume, SetActiveRanks, SetBatchSize, TurnRefused
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE
from rankdeck.runner.state import RankState, RunState
from rankdeck.tui.sources.knobs import FORGET_SECONDS, Knobs


def state(batch_size: int = 8, active: int = 2, paused: str | None = None, now: float = 100.0) -> RunState:
    ranks = tuple(RankState(rank=rank) for rank in range(4))
    return RunState(batch_size=batch_size, active_ranks=active, paused=paused, now=now, ranks=ranks)


def test_presses_count_from_the_value_asked_for_last() -> None:
    knobs = Knobs()
    assert [knobs.turn_batch_size(state(), up=up) for up in (True, True, False, False, False)] == [
        SetBatchSize(batch_size=size) for size in (16, 32, 16, 8, 4)
    ]
    assert [knobs.turn_active_ranks(state(), by=by) for by in (1, 1, -1, -1, -1)] == [
        SetActiveRanks(active_ranks=ranks) for ranks in (3, 4, 3, 2, 1)
    ]
    assert [knobs.turn_pause(state()) for _ in range(3)] == [Pause(), Resume(), Pause()]


def test_at_the_end_of_a_knob_nothing_is_asked_and_nothing_is_remembered() -> None:
    knobs = Knobs()
    assert knobs.turn_batch_size(state(1), up=False) is None
    assert knobs.turn_batch_size(state(MAX_BATCH_SIZE), up=True) is None
    assert knobs.turn_active_ranks(state(active=1), by=-1) is None
    assert knobs.turn_active_ranks(state(active=4), by=1) is None
    assert knobs.turn_batch_size(state(8), up=True) == SetBatchSize(batch_size=16)
    assert knobs.turn_active_ranks(state(active=2), by=1) == SetActiveRanks(active_ranks=3)
    assert knobs.turn_active_ranks(state(active=2), by=5) == SetActiveRanks(active_ranks=4)
    assert knobs.turn_active_ranks(state(active=2), by=-9) == SetActiveRanks(active_ranks=1)


def test_a_paused_run_is_resumed_whatever_paused_it() -> None:
    assert Knobs().turn_pause(state(paused="the disk is full")) == Resume()


def test_a_size_can_be_named_and_left_to_the_search() -> None:
    knobs = Knobs()
    assert knobs.set_batch_size(state(), 48) == SetBatchSize(batch_size=48)
    assert knobs.turn_batch_size(state(), up=True) == SetBatchSize(batch_size=64)
    assert knobs.set_batch_size(state(), None) == SetBatchSize(batch_size=None)
    assert knobs.turn_batch_size(state(), up=True) == SetBatchSize(batch_size=16), "it counts from the run's again"


TURNS: list[tuple[Callable[[Knobs], Any], RunState, Callable[[Knobs, RunState], Any], Any, Any]] = [
    (
        lambda knobs: knobs.turn_batch_size(state(), up=True), state(16),
        lambda knobs, now: knobs.turn_batch_size(now, up=True),
        SetBatchSize(batch_size=4), SetBatchSize(batch_size=32),
    ),
    (
        lambda knobs: knobs.turn_active_ranks(state(), by=1), state(active=3),
        lambda knobs, now: knobs.turn_active_ranks(now, by=1),
        SetActiveRanks(active_ranks=2), SetActiveRanks(active_ranks=4),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("turn", "confirmed", "next_turn", "from_the_run", "from_what_was_asked"), TURNS)
def test_a_value_asked_for_holds_until_it_is_confirmed_or_three_seconds_have_passed(
    turn: Callable[[Knobs], Any],
    confirmed: RunState,
    next_turn: Callable[[Knobs, RunState], Any],
    from_the_run: Any,
    from_what_was_asked: Any,
) -> None:
    elsewhere = 2 if isinstance(from_the_run, SetBatchSize) else 8  # another viewer's turn meanwhile
    for heard, expected in (
        (confirmed, from_the_run),
        (state(now=100.0 + FORGET_SECONDS), from_what_was_asked),
        (state(now=100.1 + FORGET_SECONDS), from_the_run),
    ):
        knobs = Knobs()
        turn(knobs)
        knobs.update(heard)
        assert next_turn(knobs, state(elsewhere, 1)) == expected


def test_a_pause_asked_for_holds_until_it_is_confirmed_or_three_seconds_have_passed() -> None:
    for heard, expected in (
        (state(paused="by hand"), Pause()),
        (state(now=100.0 + FORGET_SECONDS), Resume()),
        (state(now=100.1 + FORGET_SECONDS), Pause()),
    ):
        knobs = Knobs()
        knobs.turn_pause(state())
        knobs.update(heard)
        assert knobs.turn_pause(state()) == expected, "a run that goes on is paused, unless a pause is on its way"


def test_a_value_that_was_refused_is_forgotten_at_once_and_an_older_refusal_is_not_its() -> None:
    for at, expected in ((100.2, 16), (99.9, 32)):
        refused = replace(state(now=100.3), refusal=TurnRefused(at=at, reason="no prompt is left"))
        knobs = Knobs()
        knobs.turn_batch_size(state(), up=True)
        knobs.update(refused)
        assert knobs.turn_batch_size(refused, up=True) == SetBatchSize(batch_size=expected)


def test_a_later_press_is_not_forgotten_with_an_earlier_one() -> None:
    knobs = Knobs()
    knobs.turn_batch_size(state(now=100), up=True)
    knobs.turn_batch_size(state(now=102), up=True)
    knobs.update(state(now=104))
    assert knobs.turn_batch_size(state(now=104), up=True) == SetBatchSize(batch_size=64)


def test_a_value_asked_for_is_waited_for_until_the_run_has_it() -> None:
    knobs = Knobs()
    assert not knobs.waiting
    for ask, reached in (
        (lambda: knobs.turn_batch_size(state(), up=True), state(16)),
        (lambda: knobs.turn_active_ranks(state(), by=1), state(active=3)),
        (lambda: knobs.turn_pause(state()), state(paused="asked for")),
    ):
        ask()
        knobs.update(state())
        assert knobs.waiting
        knobs.update(reached)
        assert not knobs.waiting
