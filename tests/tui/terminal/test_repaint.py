"""How often the screen is painted: four times a second, less often on a slow line, which gets the newest state."""

import itertools
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.tui.terminal.repaint import REPAINT_SECONDS, SLOWEST_SECONDS, RepaintPace
from tests.terminal import Terminal

RANKDECK = str(Path(sys.executable).with_name("rankdeck"))


def painted_at(line_seconds: float, seconds: float, beats: float = REPAINT_SECONDS) -> list[float]:
    """When the screen is painted, on a line that takes `line_seconds` for a repaint."""
    pace, painted = RepaintPace(), list[float]()
    for beat in range(int(seconds / beats)):
        now = beat * beats
        backlog = 100 if painted and now - painted[-1] < line_seconds else 0
        if pace.due(now, backlog):
            pace.painted(now)
            painted.append(now)
    return painted


def test_on_a_quick_line_every_beat_paints():
    assert painted_at(0.01, 10) == [beat / 4 for beat in range(40)]


def test_more_frequent_beats_do_not_paint_more_often():
    times = painted_at(0.01, 10, beats=0.01)
    assert 36 <= len(times) <= 50


def test_on_a_slow_line_fewer_beats_paint():
    assert len(painted_at(0.5, 10)) == pytest.approx(10, abs=2)
    assert len(painted_at(1.0, 10)) == pytest.approx(5, abs=1)


def test_on_a_line_that_takes_nothing_only_one_beat_paints():
    assert painted_at(1e9, 60) == [0.0]


def test_on_a_line_that_is_quick_again_every_beat_paints_within_seconds():
    pace = RepaintPace()
    pace.painted(0.0)
    assert not pace.due(3.0, 10)
    assert pace.due(3.25, 0)
    assert pace.interval == SLOWEST_SECONDS
    now = 3.25
    for _ in range(40):
        if pace.due(now, 0):
            pace.painted(now)
        now += REPAINT_SECONDS
    assert pace.interval == REPAINT_SECONDS


def test_a_costly_screen_is_painted_as_often_as_its_bytes_allow():
    pace, painted, written = RepaintPace(), 0, 0
    for beat in range(400):
        if pace.due(beat * REPAINT_SECONDS, 0, written):
            pace.painted(beat * REPAINT_SECONDS)
            painted += 1
            written += 6_000
    assert written / 100 < 10_000
    assert painted / 100 > 1.3


def test_after_asking_for_whole_screens_the_user_sees_news_within_two_seconds():
    pace = RepaintPace()
    pace.painted(0.0)
    assert not pace.due(0.25, 0, written=500_000)
    assert not pace.due(1.75, 0, written=500_000)
    assert pace.due(SLOWEST_SECONDS, 0, written=500_000)


def test_a_user_going_from_view_to_view_sees_news_all_the_time():
    pace, painted = RepaintPace(), [0.0]
    pace.painted(0.0)
    for beat in range(1, 200):
        now = beat * REPAINT_SECONDS
        if pace.due(now, 0, written=int(now * 40_000)):  # a whole screen at every second beat
            pace.painted(now)
            painted.append(now)
    assert max(later - earlier for earlier, later in itertools.pairwise(painted)) <= SLOWEST_SECONDS


@pytest.mark.parametrize(
    ("took", "interval"),
    [(0.25, 0.25), (0.49, 0.25), (0.5, 1.0), (0.75, 1.5), (1.0, 2.0), (5.0, 2.0)],
    ids=["next beat", "just in time", "one too late", "slow", "slower", "slowest"],
)
def test_a_repaint_may_take_half_of_the_time_on_a_slow_line(took: float, interval: float):
    pace = RepaintPace()
    pace.painted(0.0)
    pace.due(took - 0.01, 1)
    pace.due(took, 0)
    assert pace.interval == interval


def test_the_interval_grows_at_once_and_shrinks_by_halves():
    pace, intervals, at = RepaintPace(), [], 0.0
    for took in (1.0, 0.01, 0.01, 0.01, 0.01):
        pace.painted(at)
        pace.due(at + took, 0)
        intervals.append(pace.interval)
        at += 10
    assert intervals == [2.0, 1.0, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(("waited", "due"), [(0.19, False), (0.2, True)])
def test_a_beat_may_come_a_fifth_of_its_time_early_and_no_more(waited: float, due: bool):
    pace = RepaintPace()
    pace.painted(0.0)
    assert pace.due(waited, 0) is due


def test_the_budget_is_nine_kilobytes_a_second_and_what_is_owed_is_waited_for():
    pace = RepaintPace()
    assert pace.due(0.0)
    pace.painted(0.0)
    assert not pace.due(0.25, 0, 18_000), "all that was saved, and as much again"
    assert not pace.due(1.0, 0, 18_000)
    assert not pace.due(1.24, 0, 18_000)
    assert pace.due(1.26, 0, 18_000)
    pace.painted(1.26)
    saved = RepaintPace()
    saved.due(100.0, 0, 0)
    saved.painted(100.0)
    assert not saved.due(100.25, 0, 9_001), "no more is saved up than one second brings"
    assert saved.due(100.26, 0, 9_001)


def test_no_more_is_owed_than_two_seconds_bring():
    pace = RepaintPace()
    pace.painted(0.0)
    assert not pace.due(0.0, 0, 10**9)
    assert pace.due(2.0, 0, 10**9)
    pace.painted(2.0)
    assert pace.due(2.25, 0, 10**9), "what is written before the budget counts is not counted again"


@given(st.floats(0, 20), st.floats(10, 60))
def test_nothing_is_painted_while_the_line_has_bytes_to_take(line_seconds: float, seconds: float):
    times = painted_at(line_seconds, seconds)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(gap >= max(REPAINT_SECONDS, line_seconds) - 1e-9 for gap in gaps)
    assert all(gap <= max(SLOWEST_SECONDS, line_seconds) + 3 * REPAINT_SECONDS for gap in gaps)


def test_over_a_line_of_a_kilobyte_a_second_the_dashboard_answers_and_its_screen_ends_up_right(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    prompts = [f"tell me of number {number}" for number in range(600)]
    started = launch(prompts)
    with Terminal([RANKDECK, "attach", str(started.directory)], columns=120, rows=40) as terminal:
        terminal.wait_for("tok/s now", seconds=30)
        process = psutil.Process(terminal.pid)
        before, began = process.memory_info().rss, terminal.bytes_out
        for number in range(100):
            terminal.sip(100)
            time.sleep(0.1)
            if number == 50:
                terminal.send("2")
        assert terminal.bytes_out - began <= 10_000
        assert process.memory_info().rss - before < 8 * 2**20
        # The line is quick again: first come old bytes, the last ones are current.
        terminal.wait_for("as they came", seconds=60)
        terminal.send("1")
        terminal.wait_for("completed", seconds=60)
        terminal.read(1)
        assert "600 / 600 prompts" in terminal.text
        assert_closed(terminal)
        terminal.send("q")
        assert terminal.wait(5) == 0


def test_over_a_line_that_takes_nothing_the_dashboard_can_be_left(launch, monkeypatch):
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.05")
    started = launch([f"tell me of number {number}" for number in range(2000)])
    with Terminal([RANKDECK, "attach", str(started.directory), "--watch-only"], columns=120, rows=40) as terminal:
        terminal.wait_for("tok/s now", seconds=30)
        time.sleep(12)  # nobody reads
        asked = time.monotonic()
        terminal.send("q")
        assert terminal.wait(5) == 0
        assert time.monotonic() - asked < 4
        assert b"\x1b[?1049l" in terminal.raw
        assert "goes on" in terminal.text


def assert_closed(terminal: Terminal) -> None:
    """Assert that every box on the screen has its four corners."""
    text = terminal.text
    assert text.count("╭") == text.count("╮") == text.count("╰") == text.count("╯") > 0
