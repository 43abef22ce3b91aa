"""A run that began with small batches invites its user to turn a knob, until one was turned or little is left."""

from collections.abc import Callable

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.advice.invitation import invites
from tests import scripted_sweep
from tests.scripted_steering import SteeredScript


def small(batch_size: int = 2, prompts: int = 400) -> SteeredScript:
    return SteeredScript(batch_size=batch_size, prompts=prompts).begun()


def test_a_run_of_small_batches_invites_from_its_first_batch_on() -> None:
    assert invites(small().rounds(1, finish=False).state)
    assert invites(small(4).rounds(3).state)


@pytest.mark.parametrize(
    "turn",
    [
        lambda script: script.size(4),
        lambda script: script.activate(1),
        lambda script: script.size(4).size(2),
        lambda script: script.rounds(2).size(4).rounds(1).size(2),
    ],
)
def test_it_invites_no_more_once_a_knob_was_turned(turn: Callable[[SteeredScript], SteeredScript]) -> None:
    assert not invites(turn(small()).rounds(1).state)


def test_it_does_not_invite_where_a_larger_batch_has_little_left_to_act_on_or_is_large_already() -> None:
    assert invites(small(4, prompts=40).rounds(1).state), "32 left are 4 rounds"
    assert not invites(small(4, prompts=39).rounds(1).state)
    assert not invites(small(5).rounds(1).state)


def test_it_does_not_invite_while_something_else_has_the_knobs() -> None:
    assert not invites(SteeredScript(batch_size=2).begun(auto=True).rounds(1).state)
    assert not invites(scripted_sweep.running().state)
    paused = small().rounds(1)
    paused.add(protocol.Paused(reason="asked for", asked=True))
    assert not invites(paused.state)
    capped = small().rounds(1)
    capped.add(protocol.RankCapped(rank=1, batch_size=1))
    assert not invites(capped.state)
    assert not invites(SteeredScript(batch_size=2).started().state)
