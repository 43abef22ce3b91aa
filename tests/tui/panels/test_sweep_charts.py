"""The charts of a sweep; and every line of the view fits its width, whatever was found."""

import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from rankdeck.runner import protocol
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState, Trial, TrialOutcome, TrialRecord, TrialResult
from rankdeck.runner.state import RunState
from rankdeck.runner.supervisor.sweeper import order_of
from rankdeck.runner.sweep.verdict import summarise_sweep
from rankdeck.tui.panels.overview.header import header_line
from rankdeck.tui.panels.overview.progress import progress_lines
from rankdeck.tui.panels.sweep.chart import knee_lines, positions, scaling_lines, sizes_chart
from rankdeck.tui.panels.sweep.status import empty_lines, how_lines, status_lines
from rankdeck.tui.panels.sweep.table import MARKERS, table_lines
from rankdeck.tui.plain.sweep import sweep_lines, trial_line
from rankdeck.tui.words.sweep import shown_sweep
from rankdeck.tui.words.text import Line, line_width, plain
from tests import scripted
from tests.scripted_sweep import STATES, SweepScript, plan

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
def test_no_line_of_a_sweep_is_wider_than_its_room(name: str, width: int) -> None:
    for line in every_line(ALL[name], width):
        assert line_width(line) <= width, plain([line])


@st.composite
def sweeps(draw: st.DrawFn) -> RunState:
    """Any sweep at any time, with any figures, reasons and sources."""
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
def test_whatever_a_sweep_finds_its_lines_fit_and_have_no_control_characters(state: RunState, width: int) -> None:
    for line in every_line(state, width):
        assert line_width(line) <= width, plain([line])
        assert not UNSAFE.search("".join(text for text, _ in line))
    logged = [*sweep_lines(state, sweep_of(state)), *(trial_line(record, 9) for record in sweep_of(state).records)]
    assert not any(UNSAFE.search(line) for line in logged)


@given(st.lists(st.integers(1, 65536), min_size=1, max_size=14, unique=True), st.integers(1, 10), st.integers(20, 150))
def test_every_batch_size_has_its_own_group_of_columns(sizes: list[int], series: int, width: int) -> None:
    columns, group = positions(sorted(sizes), series, width)
    places = [columns[size] for size in sorted(sizes)]
    assert 1 <= group <= series
    assert all(place >= 0 and place + group <= width for place in places)
    assert places == sorted(places)
    if len(sizes) * 2 <= width:
        assert len(set(places)) == len(places)


def test_batch_sizes_are_spaced_by_their_logarithms() -> None:
    columns, group = positions([1, 4, 16, 32], 2, 60)
    assert group == 2
    assert columns[4] - columns[1] == pytest.approx(2 * (columns[32] - columns[16]), abs=1)
    assert columns[16] - columns[4] == pytest.approx(columns[4] - columns[1], abs=1)


# --- charts -----------------------------------------------------------------------------------------


def chart_of(state: RunState, width: int = 76, height: int = 16) -> str:
    sweep = sweep_of(state)
    return plain(sizes_chart(sweep.plan, summarise_sweep(sweep), width, height))


def test_the_chart_has_a_line_with_its_own_sign_for_each_number_of_ranks() -> None:
    lines = chart_of(ALL["settled"]).split("\n")
    assert "● 1 rank  ■ 2 ranks  ▾ knee" in lines[0]
    plot = "\n".join(lines[1:])
    assert plot.count("●") == plot.count("■") == 5
    assert lines[-1].split() == ["1", "4", "8", "16", "32"]
    assert lines[1].split()[0] == "6,000"
    assert lines[-2].split()[0] == "0"


def test_every_point_is_above_the_label_of_its_batch_size() -> None:
    lines = chart_of(ALL["one_rank"]).split("\n")
    ticks = [column for column, cell in enumerate(lines[-2]) if cell == "┬"]
    signs = sorted(column for line in lines[1:-2] for column, cell in enumerate(line) if cell == "●")
    assert ticks == signs
    assert all(lines[-1][column].isdigit() for column in ticks)


def test_eight_numbers_of_ranks_have_eight_signs() -> None:
    assert len(set(MARKERS)) == len(MARKERS) >= 8
    legend = chart_of(ALL["eight_ranks"], 116).split("\n")[0]
    assert all(f"{MARKERS[place]} {place + 1}" in legend for place in range(8))


def test_a_batch_size_that_ran_out_of_memory_is_a_cross_on_the_axis() -> None:
    lines = chart_of(ALL["wall"]).split("\n")
    assert "✗ out of memory" in lines[0]
    assert lines[-3].count("✗") == 3


def test_the_knee_is_marked_only_where_growth_was_seen_to_end() -> None:
    assert chart_of(ALL["settled"]).count("▾") + chart_of(ALL["settled"]).count("▴") == 1 + 2
    growing = SweepScript(plan((1, 2, 4), (1,), 1), 1).begun().over(3).settled().state
    assert chart_of(growing).count("▾") + chart_of(growing).count("▴") == 1
    sweep = sweep_of(growing)
    assert "knee" not in plain(table_lines(growing, sweep, summarise_sweep(sweep), 116))


def test_the_knee_is_described_with_its_noise() -> None:
    words = plain(knee_lines(summarise_sweep(sweep_of(ALL["settled"])), 76))
    assert "▾ 1 rank: 16 -> 32: +4% ± 2%, +85% memory: stay at 16" in words


def test_noise_taller_than_a_cell_is_drawn() -> None:
    script = SweepScript(plan((8,), (1,), 2), 1).begun()
    for trial, speed in zip(script.trials, (100.0, 140.0), strict=True):
        result = replace(script._result(trial), tokens_per_second=speed)
        script.add(protocol.TrialFinished(record=TrialRecord(trial=trial, outcome="measured", result=result)))
    assert chart_of(script.state).count("│") > 16


def scaling_of(state: RunState, width: int = 44, height: int = 16) -> list[str]:
    sweep = sweep_of(state)
    return plain(scaling_lines(sweep.plan, summarise_sweep(sweep), width, height)).split("\n")


def test_scaling_shows_speedup_and_efficiency_with_their_noise_at_the_batch_size_that_is_run() -> None:
    lines = scaling_of(ALL["settled"])
    assert lines[-4].split() == ["ranks", "batch", "tok/s", "speedup", "effic."]
    assert lines[-3].split() == ["1", "32", "2,777.8", "1.00x", "100%"]
    assert lines[-2].split() == ["2", "32", "5,245.4", "1.89x", "±0.05", "94%", "±3%"]
    assert lines[-1] == "best with each number of ranks: the same"
    assert "● batch size 32" in lines[0]
    assert "⠒ ideal" in lines[0]
    assert "◆" not in "\n".join(lines)


def measured(rates: dict[tuple[int, int], Sequence[float]]) -> RunState:
    """A settled sweep with these tokens/s by (ranks, batch size); settings left out failed."""
    repeats = len(next(iter(rates.values())))
    settings = plan(sorted({size for _, size in rates}), sorted({ranks for ranks, _ in rates}), repeats)
    script = SweepScript(settings, max(settings.ranks)).begun()
    for trial in script.trials:
        if (speeds := rates.get((trial.active_ranks, trial.batch_size))) is None:
            script._finish(trial, "failed", "the rank was lost")
            continue
        result = replace(script._result(trial), tokens_per_second=speeds[trial.repeat - 1])
        script.add(protocol.TrialFinished(record=TrialRecord(trial=trial, outcome="measured", result=result)))
    return script.settled().state


MORE_RANKS_AND_SMALLER_BATCHES = measured(
    {(1, 16): (50, 51, 52), (1, 64): (87, 88, 89), (2, 16): (101, 102, 103), (2, 64): (80, 81, 82)}
)


def test_scaling_at_one_batch_size_is_followed_by_that_of_the_best_with_each_number_of_ranks() -> None:
    lines = scaling_of(MORE_RANKS_AND_SMALLER_BATCHES)
    at = lines.index("◆ best of each, where it is another:")
    assert lines[at - 1].split() == ["2", "16", "102.0", "2.00x", "±0.08", "100%", "±4%"]
    assert lines[at + 1].split() == ["1", "64", "88.0", "1.00x", "100%"]
    assert lines[at + 2].split() == ["2", "16", "102.0", "1.16x", "±0.03", "58%", "±1%"]
    logged = sweep_lines(MORE_RANKS_AND_SMALLER_BATCHES, sweep_of(MORE_RANKS_AND_SMALLER_BATCHES))
    at = logged.index("scaling of the best with each number of ranks:")
    assert logged[at + 3].split() == ["2", "16", "102.0", "2.5", "1.16x", "0.03", "58%", "1%"]


@pytest.mark.parametrize("height", [12, 16, 24])
@pytest.mark.parametrize("state", ["settled", "running", "eight_ranks"])
def test_the_axes_of_scaling_fit_its_points(state: str, height: int) -> None:
    lines = scaling_of(ALL[state], 60, height)
    plot = [line for line in lines if "│" in line[:7] or "┤" in line[:7]]
    signs = [(column, row) for row, line in enumerate(plot) for column, cell in enumerate(line) if cell in "●◆"]
    columns, rows = zip(*signs, strict=True)
    assert max(columns) - min(columns) >= 0.8 * 50, "from the first number of ranks to the last"
    assert max(rows) - min(rows) >= 0.5 * (len(plot) - 1), "most of its height"
    labels = [line.split("┤")[0] for line in plot if "┤" in line]
    assert len(labels) >= 2
    assert all(label.strip().endswith("x") for label in labels)


@pytest.mark.parametrize("height", [10, 13, 20])
def test_a_point_is_level_with_its_label(height: int) -> None:
    lines = scaling_of(
        measured({(1, 8): (100, 100, 100), (2, 8): (150, 150, 150), (3, 8): (200, 200, 200)}), 44, height
    )
    rows = {line.split("┤")[0].strip(): line.count("●") for line in lines if "┤" in line}
    assert rows["1.0x"] == rows["2.0x"] == 1


def test_a_tiny_speedup_is_not_magnified() -> None:
    lines = scaling_of(measured({(1, 8): (100, 100, 100), (2, 8): (101, 101, 101)}))
    plot = [line for line in lines if "│" in line[:7] or "┤" in line[:7]]
    rows = [row for row, line in enumerate(plot) if "●" in line]
    assert max(rows) - min(rows) <= len(plot) // 3


@pytest.mark.parametrize(
    ("ranks", "shown"),
    [((2, 4, 256), ["2", "256"]), ((1, 252, 256), ["1", "256"]), ((1, 128, 256), ["1", "128", "256"])],
)
def test_where_numbers_of_ranks_lie_too_close_the_ends_keep_their_labels(
    ranks: tuple[int, ...], shown: list[str]
) -> None:
    state = measured({(number, 8): (100.0 * number, 101.0 * number) for number in ranks})
    lines = scaling_of(state, 44)
    assert next(lines[row + 1] for row, line in enumerate(lines) if "└" in line).split() == shown


def test_log_and_view_show_a_speedup_with_the_same_digits() -> None:
    state = measured({(1, 8): (10, 11), (128, 8): (1300, 1301)})
    row = next(line for line in scaling_of(state) if line.split()[:2] == ["128", "8"])
    speedup, noise = row.split()[3:5]
    logged = sweep_lines(state, sweep_of(state))
    logged_row = logged[logged.index("scaling at batch size 8:") + 3].split()
    assert logged_row[4:6] == [speedup, noise.removeprefix("±")]


def test_with_one_number_of_ranks_there_is_no_scaling() -> None:
    sweep = sweep_of(ALL["one_rank"])
    assert scaling_lines(sweep.plan, summarise_sweep(sweep), 78, 16) == []
