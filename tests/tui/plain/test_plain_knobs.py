"""--plain says of the knobs and of the timeline what the screen says of them."""

import re

from msgspec.structs import replace

from rankdeck.runner.advice.findings import findings
from rankdeck.tui.panels.overview.knob_effect import turn_lines as on_screen
from rankdeck.tui.panels.overview.progress import progress_lines
from rankdeck.tui.panels.overview.scaling import scaling_rows
from rankdeck.tui.plain.knobs import closing_lines, finding_lines, knob_lines, scaling_table, turn_lines
from rankdeck.tui.plain.status import status_lines, what_if_lines
from rankdeck.tui.plain.view import end_lines
from rankdeck.tui.words.text import plain
from tests import scripted_steering, scripted_sweep, scripted_timeline


def figures(line: str) -> list[str]:
    return re.findall(r"\d[\d,.]*%?", line)


def test_the_last_turn_of_a_knob_has_a_line_with_the_figures_on_screen() -> None:
    state = scripted_steering.knob_turned().state
    (line,) = turn_lines(state)
    assert re.fullmatch(r"batch size \d+ -> \d+: \d+ -> \d+ tok/s \([+-]\d+%\)(, memory .* GiB)?", line), line
    assert figures(line) == figures(plain(on_screen(state, 100)))
    assert line in status_lines(state)


def test_a_turn_is_measuring_until_every_active_rank_has_ended_a_batch() -> None:
    state = scripted_steering.knob_just_turned().state
    (line,) = turn_lines(state)
    assert line.endswith("tok/s -> measuring")
    ended = scripted_timeline.second_round().state.ended
    assert turn_lines(replace(state, ended=ended)) == [], "what has no figure by the end gets none any more"


def test_a_turn_before_anything_was_measured_says_that_there_is_nothing_to_compare_with() -> None:
    early = scripted_steering.SteeredScript().begun().rounds(1, finish=False).size(8).state
    assert turn_lines(early) == ["batch size 4 -> 8: turned before a batch was whole: nothing to compare with"]


def test_the_scaling_is_a_line_while_the_run_goes_on_and_a_table_at_its_end() -> None:
    state = scripted_steering.scaled().state
    rows = scaling_rows(state)
    assert len(rows) > 1
    line = next(line for line in knob_lines(state) if line.startswith("scaling at batch size"))
    head, titles, *table = scaling_table(state)
    assert head == f"scaling at batch size {state.batch_size}:"
    assert titles.split() == ["ranks", "tok/s", "speedup", "efficiency"]
    assert [int(row.split()[0]) for row in table] == [row.active_ranks for row in rows]
    for row, cells in zip(rows, table, strict=True):
        assert f"{row.active_ranks} rank" in line
        if row.active_ranks > 1:
            assert f"speedup {cells.split()[2]}, efficiency {cells.split()[3]}" in line


def test_the_end_says_what_the_timeline_shows() -> None:
    state = scripted_timeline.second_round().state
    said = finding_lines(state)
    assert said == [f"timeline: {found.text}" for found in findings(state)]
    assert any("Round 2 of 2 was 25% full" in line for line in said)
    lines = end_lines(state)
    assert [line for line in lines if line.startswith("timeline: ")] == said


def test_a_sweep_says_nothing_of_turned_knobs_as_its_trials_turn_them() -> None:
    state = scripted_sweep.running().state
    assert state.sweeping
    assert knob_lines(state) == closing_lines(state) == []


def test_a_guess_is_about_so_much_in_lines_and_on_screen() -> None:
    state = scripted_steering.knob_turned().state
    lines = what_if_lines(state)
    assert any(re.search(r": about [+-]\d+% tok/s$", line) for line in lines), lines
    for width in (28, 34, 40, 60):
        shown = plain(progress_lines(state, width, 30)).splitlines()
        assert any(re.search(r"about [+-]\d+%( tok/s)?$", line.rstrip()) for line in shown), shown
        assert not any("~" in line or "…" in line for line in shown)
