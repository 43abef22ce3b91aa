"""--plain and the screen say the same about knobs, scaling and the timeline."""

import re

from msgspec.structs import replace

from rankdeck.runner.advice.findings import findings
from rankdeck.tui.panels.overview.knob_effect import turn_lines
from rankdeck.tui.panels.overview.progress import progress_lines
from rankdeck.tui.panels.overview.scaling import scaling_table
from rankdeck.tui.plain.status import WIDE, finding_lines, knob_lines, status_lines, what_if_lines
from rankdeck.tui.plain.view import end_lines
from rankdeck.tui.words.text import plain
from tests import scripted_steering, scripted_sweep, scripted_timeline


def test_the_last_turn_of_a_knob_is_the_line_on_screen() -> None:
    state = scripted_steering.knob_turned().state
    (line,) = knob_lines(state)
    assert re.fullmatch(r"batch size \d+ → \d+  \d+ → \d+ tok/s \([+-]\d+%\)(  memory .* GiB)?", line), line
    assert line == plain(turn_lines(state, WIDE))
    assert line in status_lines(state)


def test_a_turn_is_measuring_until_every_active_rank_has_finished_a_batch() -> None:
    state = scripted_steering.knob_just_turned().state
    (line,) = knob_lines(state)
    assert line.endswith("tok/s → measuring…")
    ended = scripted_timeline.second_round().state.ended
    assert knob_lines(replace(state, ended=ended)) == [], "it will never be measured"


def test_a_knob_turned_before_the_first_whole_batch_has_nothing_to_compare_with() -> None:
    early = scripted_steering.SteeredScript().begun().rounds(1, finish=False).size(8).state
    assert knob_lines(early) == ["batch size 4 → 8  turned before a batch was whole: nothing to compare with"]


def test_scaling_is_the_table_on_screen() -> None:
    state = scripted_steering.scaled().state
    table = plain(scaling_table(state, WIDE)).splitlines()
    assert len(table) > 3
    assert knob_lines(state)[-len(table) :] == table
    assert set(table) <= set(status_lines(state))


def test_the_last_lines_have_the_findings_of_the_timeline() -> None:
    state = scripted_timeline.second_round().state
    said = finding_lines(state)
    assert said == [f"timeline: {found.text}" for found in findings(state)]
    assert any("Round 2 of 2 was 25% full" in line for line in said)
    lines = end_lines(state)
    assert [line for line in lines if line.startswith("timeline: ")] == said


def test_a_sweep_has_no_lines_about_knobs_as_its_trials_turn_them() -> None:
    state = scripted_sweep.running().state
    assert state.sweeping
    assert knob_lines(state) == []


def test_an_extrapolation_is_marked_about_in_lines_and_on_screen() -> None:
    state = scripted_steering.knob_turned().state
    lines = what_if_lines(state)
    assert any(re.search(r": about [+-]\d+% tok/s$", line) for line in lines), lines
    for width in (28, 34, 40, 60):
        shown = plain(progress_lines(state, width, 30)).splitlines()
        assert any(re.search(r"about [+-]\d+%( tok/s)?$", line.rstrip()) for line in shown), shown
        assert not any("~" in line or "…" in line for line in shown)
