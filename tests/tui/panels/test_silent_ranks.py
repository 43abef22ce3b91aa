"""A silent rank on the screen: named with what is known, and the ETA says whom it waits for."""

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.forecast.forecast import eta_seconds
from rankdeck.runner.state import RunState, apply
from rankdeck.tui.panels.overview.notice import notice_lines
from rankdeck.tui.panels.overview.progress import progress_facts
from rankdeck.tui.panels.overview.rank_order import RankView, arranged, trouble
from rankdeck.tui.panels.overview.ranks import rank_lines
from rankdeck.tui.plain.status import bar_line, progress_line
from rankdeck.tui.words.text import plain
from tests.scripted import Script


@pytest.fixture
def running() -> RunState:
    return Script().started().launched().loading().ready().round().round(finish=False).state


def silent(state: RunState, **changes) -> RunState:
    values = {"rank": 1, "stage": "at work", "seconds": 15.0, "process": "stopped", "patience": 60.0, **changes}
    return apply(state, protocol.RankSilent(at=state.now, **values))


def test_it_is_said_what_is_known_and_what_follows_and_the_seconds_go_on(running):
    assert eta_seconds(running) is not None
    state = silent(running)
    assert plain(notice_lines(state, 200)) == (
        "? rank 1: no step for 15 s, its process is stopped; in 45 s it is ended and its batch done again (--patience)"
    )
    later = apply(state, protocol.LogLine(at=state.now + 20, source="s", text="t"))
    assert "no step for 35 s" in plain(notice_lines(later, 200))
    assert "in 25 s" in plain(notice_lines(later, 200))


def test_the_eta_says_whom_it_waits_for_everywhere(running):
    state = silent(running)
    assert eta_seconds(state) is None
    assert any(fact.value == "waiting for rank 1" for fact in progress_facts(state))
    assert "ETA waiting for rank 1" in progress_line(state)
    assert "ETA waiting for rank 1" in bar_line(state, 200)


def test_its_row_says_silent_and_it_is_among_the_worst(running):
    state = silent(running)
    assert any("silent" in plain([line]) for line in rank_lines(state, 100))
    assert trouble(state.ranks[1], frozenset()) == ["silent"]
    assert arranged(state, RankView(sort="worst first"))[0] == 1


@pytest.mark.parametrize(
    "event",
    [
        protocol.RankHeard(rank=1),
        protocol.RankLost(rank=1, cause="it was ended"),
        protocol.RanksLaunched(attempt=2, world_size=2),
    ],
)
def test_it_is_over_when_the_rank_is_heard_lost_or_launched_again(running, event):
    state = apply(silent(running), event)
    assert state.ranks[1].silence is None
    assert "no step" not in plain(notice_lines(state, 200))


def test_a_stopped_rank_without_work_holds_up_no_eta(running):
    state = silent(running, stage="waiting", patience=None)
    assert eta_seconds(state) == eta_seconds(running)
    assert "rank 1: its process is stopped" in plain(notice_lines(state, 200))
