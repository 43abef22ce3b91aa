"""The charts of a sweep, and that no line of it ever leaves its room, whatever was found."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from runner import protocol
from runner.state import RunState
from runner.sweep import order_of
from runner.sweep_figures import summarise_sweep
from runner.trials import SweepPlan, SweepState, Trial, TrialOutcome, TrialRecord, TrialResult
from tests import scripted
from tests.scripted_sweep import STATES, SweepScript, plan
from tui.sweep_lines import sweep_lines, trial_line
from tui.sweep_words import shown_sweep
from tui.text import Line, line_width, plain
from tui.widgets.header import header_line
from tui.widgets.progress import progress_lines
from tui.widgets.sweep_chart import knee_lines, positions, scaling_lines, sizes_chart
from tui.widgets.sweep_status import empty_lines, how_lines, status_lines
from tui.widgets.sweep_table import MARKERS, table_lines

WIDTHS = (40, 58, 78, 118)
ALL = {name: make().state for name, make in STATES.items()}


def sweep_of(state: RunState) -> SweepState:
    sweep = shown_sweep(state)
    assert sweep is not None
    return sweep


def every_line(state: RunState, width: int) -> list[Line]:
    sweep = sweep_of(state)
    summary = summarise_sweep(sweep)
    lines = [
        *empty_lines(state, width),
        *status_lines(state, sweep, summary, width),
        *how_lines(state, sweep, width),
        *table_lines(state, sweep, summary, width),
        *knee_lines(summary, width),
        *progress_lines(state, width, 9),
    ]
    if width >= 58:
        lines.append(header_line(state, width))
    for height in (8, 12, 20):
        lines.extend(sizes_chart(sweep.plan, summary, width, height))
        lines.extend(scaling_lines(sweep.plan, summary, width, height))
    return lines


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ALL)
def test_no_line_of_a_sweep_is_ever_wider_than_its_room(name: str, width: int) -> None:
    for line in every_line(ALL[name], width):
        assert line_width(line) <= width, plain([line])


@st.composite
def sweeps(draw: st.DrawFn) -> RunState:
    """Any sweep, anywhere in its life, with any figures and any words of others."""
    made = SweepPlan(
        batch_sizes=draw(st.lists(st.integers(1, 65536), min_size=1, max_size=12)),
        ranks=draw(st.lists(st.integers(1, 256), min_size=1, max_size=9)),
        repeats=draw(st.integers(1, 3)),
        outputs=draw(st.booleans()),
    )
    words = draw(st.text(max_size=90))
    luck = draw(st.randoms(use_true_random=False))
    trials = order_of(made)
    records = [any_record(trial, luck, words) for trial in trials[: draw(st.integers(0, len(trials)))]]
    over = len(records) == len(trials)
    sweep = SweepState(
        plan=made,
        trials=tuple(trials),
        records=tuple(records),
        current=None if over or draw(st.booleans()) else trials[len(records)],
        measuring=draw(st.booleans()),
        bandwidth_bytes_per_second=draw(st.none() | st.floats(1e9, 1e13)),
        bandwidth_source=words,
        settled=words if over else None,
    )
    return replace(RUNNING, sweep=sweep)


def any_record(trial: Trial, luck: random.Random, words: str) -> TrialRecord:
    outcomes: tuple[TrialOutcome, ...] = ("measured", "measured", "measured", "out_of_memory", "skipped", "failed")
    outcome = luck.choice(outcomes)

    def number() -> float:
        return 10 ** luck.uniform(-3, 6)

    if outcome != "measured":
        return TrialRecord(trial=trial, outcome=outcome, reason=words)
    result = TrialResult(
        rounds=luck.randint(1, 100_000),
        batches=2,
        seconds=number(),
        prompt_tokens=1,
        output_tokens=1,
        tokens_per_second=number(),
        total_tokens_per_second=number(),
        rank_tokens_per_second=[number()],
        prefill_seconds=number(),
        batch_seconds=number(),
        step_ms=luck.choice((None, (number(), number(), number()))),
        padding_waste=luck.random(),
        idle=luck.random(),
        peak_memory_bytes=luck.choice((None, luck.randrange(1 << 45))),
        busy_percent=luck.choice((None, luck.uniform(0, 100))),
        tokens_per_joule=luck.choice((None, number())),
        mbu=luck.choice((None, luck.random())),
    )
    return TrialRecord(trial=trial, outcome=outcome, result=result)


RUNNING = scripted.running(2, gpus=2).state


UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@given(sweeps(), st.sampled_from(WIDTHS))
@settings(max_examples=100, deadline=None)
def test_whatever_a_sweep_finds_its_lines_stay_in_their_room_and_are_only_ink(state: RunState, width: int) -> None:
    for line in every_line(state, width):
        assert line_width(line) <= width, plain([line])
        assert not UNSAFE.search("".join(text for text, _ in line))
    logged = [*sweep_lines(state, sweep_of(state)), *(trial_line(record, 9) for record in sweep_of(state).records)]
    assert not any(UNSAFE.search(line) for line in logged)


@given(st.lists(st.integers(1, 65536), min_size=1, max_size=14, unique=True), st.integers(1, 10), st.integers(20, 150))
def test_every_batch_size_has_a_group_of_its_own_in_the_chart(sizes: list[int], series: int, width: int) -> None:
    columns, group = positions(sorted(sizes), series, width)
    places = [columns[size] for size in sorted(sizes)]
    assert 1 <= group <= series
    assert all(place >= 0 and place + group <= width for place in places)
    assert places == sorted(places)
    if len(sizes) * 2 <= width:
        assert len(set(places)) == len(places)


def test_batch_sizes_stand_as_far_apart_as_their_logarithms() -> None:
    columns, group = positions([1, 4, 16, 32], 2, 60)
    assert group == 2
    assert columns[4] - columns[1] == pytest.approx(2 * (columns[32] - columns[16]), abs=1)
    assert columns[16] - columns[4] == pytest.approx(columns[4] - columns[1], abs=1)


# --- charts -----------------------------------------------------------------------------------------


def chart_of(state: RunState, width: int = 76, height: int = 16) -> str:
    sweep = sweep_of(state)
    return plain(sizes_chart(sweep.plan, summarise_sweep(sweep), width, height))


def test_the_chart_has_a_line_for_each_number_of_ranks_told_apart_by_its_sign() -> None:
    lines = chart_of(ALL["settled"]).split("\n")
    assert "● 1 rank  ■ 2 ranks  ▾ knee" in lines[0]
    plot = "\n".join(lines[1:])
    assert plot.count("●") == plot.count("■") == 5
    assert lines[-1].split() == ["1", "4", "8", "16", "32"]
    assert lines[1].split()[0] == "6,000"
    assert lines[-2].split()[0] == "0"


def test_every_size_stands_over_its_label() -> None:
    lines = chart_of(ALL["one_rank"]).split("\n")
    ticks = [column for column, cell in enumerate(lines[-2]) if cell == "┬"]
    signs = sorted(column for line in lines[1:-2] for column, cell in enumerate(line) if cell == "●")
    assert ticks == signs
    assert all(lines[-1][column].isdigit() for column in ticks)


def test_eight_numbers_of_ranks_have_eight_signs() -> None:
    assert len(set(MARKERS)) == len(MARKERS) >= 8
    legend = chart_of(ALL["eight_ranks"], 116).split("\n")[0]
    assert all(f"{MARKERS[place]} {place + 1}" in legend for place in range(8))


def test_a_size_that_did_not_fit_stands_as_a_cross_on_the_axis() -> None:
    lines = chart_of(ALL["wall"]).split("\n")
    assert "✗ out of memory" in lines[0]
    assert lines[-3].count("✗") == 3


def test_the_knee_is_marked_only_where_growth_was_seen_to_end() -> None:
    assert chart_of(ALL["settled"]).count("▾") + chart_of(ALL["settled"]).count("▴") == 1 + 2
    growing = SweepScript(plan((1, 2, 4), (1,), 1), 1).begun().over(3).settled().state
    assert chart_of(growing).count("▾") + chart_of(growing).count("▴") == 1
    sweep = sweep_of(growing)
    assert "knee" not in plain(table_lines(growing, sweep, summarise_sweep(sweep), 116))


def test_the_knee_is_said_in_words_with_its_noise() -> None:
    words = plain(knee_lines(summarise_sweep(sweep_of(ALL["settled"])), 76))
    assert "▾ 1 rank: 16 -> 32: +4% ± 2%, +85% memory: stay at 16" in words


def test_noise_that_is_higher_than_a_cell_is_drawn() -> None:
    script = SweepScript(plan((8,), (1,), 2), 1).begun()
    for trial, speed in zip(script.trials, (100.0, 140.0), strict=True):
        result = replace(script._result(trial), tokens_per_second=speed)
        script.add(protocol.TrialFinished(record=TrialRecord(trial=trial, outcome="measured", result=result)))
    assert chart_of(script.state).count("│") > 16


def test_scaling_shows_speedup_and_efficiency_at_the_best_batch_size() -> None:
    sweep = sweep_of(ALL["settled"])
    lines = plain(scaling_lines(sweep.plan, summarise_sweep(sweep), 44, 16)).split("\n")
    assert lines[-3].split() == ["ranks", "tok/s", "±", "speedup", "effic."]
    assert lines[-2].split()[-2:] == ["1.00x", "100%"]
    assert lines[-1].split()[-2:] == ["1.89x", "94%"]
    assert "ideal" in lines[0]


def test_with_one_number_of_ranks_there_is_no_scaling() -> None:
    sweep = sweep_of(ALL["one_rank"])
    assert scaling_lines(sweep.plan, summarise_sweep(sweep), 78, 16) == []
