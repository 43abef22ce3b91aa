"""--plain and the screen say the same about knobs, scaling and the timeline."""

import re

from msgspec.structs import replace

from rankdeck.runner.advice.findings import findings
from rankdeck.tui.panels.overview.knob_effect import turn_lines
from rankdeck.tui.panels.overview.settings_table import settings_lines, settings_plain
from rankdeck.tui.plain.status import WIDE, finding_lines, knob_lines, status_lines, what_if_lines
from rankdeck.tui.plain.view import PlainView, end_lines
from rankdeck.tui.words.text import plain
from tests import scripted_steering, scripted_sweep, scripted_timeline


def test_the_last_turn_of_a_knob_is_the_line_on_screen() -> None:
    state = scripted_steering.knob_turned().state
    line, *table = knob_lines(state)
    assert [row.split()[:2] for row in table] == [["batch", "ranks"], ["4", "2"], ["8", "2"]]
    assert re.fullmatch(r"batch size \d+ → \d+  \d+ → \d+ tok/s \([+-]\d+%\)(  memory .* GiB)?", line), line
    assert line == plain(turn_lines(state, WIDE))
    assert line in status_lines(state)


def test_a_turn_says_what_its_steps_show_until_every_active_rank_has_finished_a_batch() -> None:
    state = scripted_steering.knob_just_turned().state
    line, *table = knob_lines(state)
    assert re.fullmatch(r"batch size 4 → 8  ~\d+ tok/s so far, \d+ steps; was 115; measured in ~\d+ s", line), line
    assert [row.split()[0] for row in table] == ["batch", "4"], "only what was measured"
    ended = scripted_timeline.second_round().state.ended
    assert knob_lines(replace(state, ended=ended)) == table, "it will never be measured"


def test_a_knob_turned_before_the_first_whole_batch_has_nothing_to_compare_with() -> None:
    early = scripted_steering.SteeredScript().begun().rounds(1, finish=False).size(8).rounds(1).state
    assert knob_lines(early)[:1] == ["batch size 4 → 8  turned before a batch was whole: nothing to compare with"]


def test_the_line_of_a_turn_says_when_it_takes_effect() -> None:
    script = scripted_steering.SteeredScript().begun().rounds(2).rounds(1, finish=False)
    lines: list[str] = []
    view = PlainView(lines.append)
    view.show(script.snapshot())
    lines.clear()
    known = len(script.events)
    for event in script.size(8).wait(0.1).activate(1).events[known:]:
        view.show(event)
    assert [line.split(" ", 1)[1].strip() for line in lines] == [
        "batch size 8: as asked for; takes effect when batch #5 ends, in ~4 s",
        "1 of 2 ranks active; takes effect when batch #6 ends, in ~4 s",
    ]
    lines.clear()
    for event in scripted_steering.SteeredScript().begun().events:
        view.show(event)
    assert not any("takes effect" in line for line in lines), "the first size is no turn"


def test_the_table_of_settings_stands_below_and_begins_its_rows_with_batch_size_and_active_ranks() -> None:
    state = scripted_steering.scaled().state
    table = plain(settings_plain(state)).splitlines()
    assert [row.split()[:2] for row in table[1:]] == [["8", "1"], ["8", "2"], ["8", "4"], ["8", "8"]]
    assert len(table) > 3
    assert knob_lines(state)[-len(table) :] == table
    assert set(table) <= set(status_lines(state))


def test_the_end_names_the_best_setting_and_by_how_much():
    lines = end_lines(scripted_steering.knob_turned().ended(status="stopped").state)
    assert "best: batch size 8 x 2 ranks, 174 tok/s, 1.5x the first setting" in lines
    assert [row.split()[:2] for row in lines[-2:]] == [["4", "2"], ["8", "2"]], "the table is the last"
    assert not any(line.startswith("best") for line in end_lines(scripted_steering.advice().ended().state))


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
    shown = plain(settings_lines(state, 60)).splitlines()
    assert any(re.search(r"16 +2 +~\d+ +guess \+\d+%", line) for line in shown), shown
