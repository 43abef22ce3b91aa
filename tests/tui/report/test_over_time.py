"""The curve of a report, and what the knobs brought, as values: units, marks, means, settings that were too short."""

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from rankdeck.runner.state import HistoryPoint, Mark, RunState
from rankdeck.runner.state.periods import KnobPeriod
from rankdeck.tui.report import measured, over_time
from rankdeck.tui.report.document import Prose, Table
from rankdeck.tui.report.over_time import throughput_plot
from rankdeck.tui.report.plot import Point
from tests import scripted
from tests.reports import summary


def a_source(state: RunState | None, name: str = "one", rate: float | None = 100.0) -> Any:
    return SimpleNamespace(
        run=SimpleNamespace(name=name), state=state, summary=summary(rate) if rate is not None else None
    )


def curve(longest: float, *marks: Mark) -> RunState:
    history = (HistoryPoint(0.0, 10.0), HistoryPoint(longest / 2, 135.4), HistoryPoint(longest, 20.0))
    return replace(scripted.running().state, history=history, marks=marks)


@pytest.mark.parametrize(
    ("longest", "scale", "unit"),
    [(300, 1, "s"), (301, 60, "min"), (3 * 3600, 60, "min"), (3 * 3600 + 1, 3600, "h")],
)
def test_time_is_in_the_unit_in_which_it_can_be_read(longest: float, scale: int, unit: str) -> None:
    trial = Mark(elapsed=1.0, kind="trial", text="trial 1")
    knob = Mark(elapsed=longest / 2, kind="batch size", text="batch size 8")
    plot = throughput_plot(a_source(curve(longest, trial, knob)))
    assert plot.x.label == f"time since the first batch ({unit})"
    assert [mark.x for mark in plot.marks] == [longest / 2 / scale], "trials are not marked"
    line, mean = plot.lines
    assert (line.name, line.filled, line.points[-1]) == ("5 s mean", True, Point(longest / scale, 20.0))
    assert (mean.name, mean.reference) == ("mean 100", True)
    assert mean.points == [Point(0, 100.0), Point(longest / scale, 100.0)]
    assert plot.description == (
        f"Output tokens per second, mean of the last five seconds. one: highest 135 tokens/s, over {longest:,.0f} s. "
        "1 mark for turned knobs and the like."
    )


def test_two_curves_have_their_names_and_no_marks_or_mean() -> None:
    knob = Mark(elapsed=5.0, kind="batch size", text="batch size 8")
    plot = throughput_plot(a_source(curve(100, knob)), a_source(curve(400), "other"))
    assert [(line.name, line.filled) for line in plot.lines] == [("one", False), ("other", False)]
    assert (plot.marks, plot.x.label) == ([], "time since the first batch (min)"), "of the longer one"
    assert "one: highest 135 tokens/s, over 100 s; other: highest 135 tokens/s, over 400 s." in plot.description
    assert len(throughput_plot(a_source(curve(100)), a_source(None)).lines) == 2, "the other has no journal"
    for rate in (None, 0.0):
        assert len(throughput_plot(a_source(curve(100), rate=rate)).lines) == 1


def test_what_happened_is_listed_without_trials_and_a_short_run_has_no_chart() -> None:
    knob = Mark(elapsed=5.04, kind="batch size", text="batch size 8")
    state = replace(curve(100, Mark(elapsed=1.0, kind="trial", text="trial 1"), knob), periods=())
    section = over_time.over_time(a_source(state), None)
    assert section is not None
    table = section.blocks[-1]
    assert isinstance(table, Table)
    assert [[item.text for item in row] for row in table.rows] == [["5.0", "batch size", "batch size 8"]]
    short = over_time.over_time(a_source(replace(state, history=state.history[:1], marks=())), None)
    assert short is not None
    assert short.blocks == [Prose(["The run was too short for a chart over time: it takes a point a second."])]
    assert over_time.over_time(a_source(None), None) is None
    assert over_time.over_time(a_source(replace(state, ranks=())), None) is None


def test_settings_that_were_too_short_to_measure_are_named_and_beyond_six_counted() -> None:
    tried = tuple(KnobPeriod(batch_size=100 + number, active_ranks=1) for number in range(8))
    state = replace(scripted.running().state, periods=tried)
    (block,) = over_time._periods(a_source(state))
    assert isinstance(block, Prose)
    listed = ", ".join(f"1 rank x {100 + number}" for number in range(6))
    assert block.paragraphs[0].endswith(f"not every active rank ended a whole batch: {listed} and 2 more.")
    (block,) = over_time._periods(a_source(replace(state, periods=tried[:6])))
    assert isinstance(block, Prose)
    assert block.paragraphs[0].endswith(f"{listed}.")
    assert over_time._periods(a_source(replace(state, periods=()))) == []


def test_the_words_of_lengths_are_those_of_the_run() -> None:
    natural, fixed = scripted.config(), replace(scripted.config(), ignore_eos=True)
    assert measured._length(natural).endswith("or after 50 tokens. Not to be compared with fixed length.")
    assert "so that every answer has 50 tokens. " in measured._length(fixed)
    assert measured._cut(natural) == ""
