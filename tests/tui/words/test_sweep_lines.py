"""The lines of a sweep in a log, and the numbers typed to plan one."""

import pytest
from msgspec.structs import replace
from rich.cells import cell_len

from rankdeck.runner.forecast.forecast import whole_file
from rankdeck.runner.protocol.sweep_plan import TrialRecord
from rankdeck.runner.state import Snapshot
from rankdeck.runner.supervisor.sweeper import order_of
from rankdeck.runner.sweep.verdict import summarise_sweep
from rankdeck.tui.plain.status import progress_line
from rankdeck.tui.plain.sweep import sweep_start_lines, trial_line
from rankdeck.tui.plain.view import PlainView, end_lines
from rankdeck.tui.words.numbers import read_numbers
from rankdeck.tui.words.sweep import how_measured, repeats_warning
from tests import scripted_sweep
from tests.runner.forecast.test_cost_model import point
from tests.scripted import Script
from tests.scripted_sweep import EVIL, STATES, SweepScript, plan

# --- lines of a log ---------------------------------------------------------------------------------


def said(script: Script) -> list[str]:
    """The lines that the plain view prints, without the time of day."""
    printed: list[str] = []
    view = PlainView(printed.append)
    for event in script.events:
        view.show(event)
    return [line[9:].rstrip("\n") for line in printed]


def test_the_log_has_a_line_per_trial() -> None:
    lines = said(STATES["wall"]())
    assert (
        "sweep of 36 trials: 6 batch sizes x 2 numbers of ranks x 3 repeats; batch sizes 1,4,16,32,64,128, ranks 1,2"
        in lines
    )
    assert "trial 2 of 36: 2 ranks x batch size 32: 5,271.9 tok/s (9 rounds, 5.5 s)" in lines
    assert f"trial 5 of 36: 2 ranks x batch size 64: out of memory: {scripted_sweep.OUT_OF_MEMORY}" in lines
    assert "trial 11 of 36: 2 ranks x batch size 128: skipped: a batch of 64 ran out of memory" in lines


def test_a_sweep_that_is_taken_up_again_says_after_how_many_trials() -> None:
    state = SweepScript(plan((1, 4, 8), (2, 1, 2))).begun().over(5).state
    assert state.sweep is not None
    first, how, again = sweep_start_lines(state, replace(state.sweep, no_mbu="why\x1b"))
    assert first.endswith("; batch sizes 1,4,8, ranks 1,2")
    assert how.endswith("; MBU n/a: why␛")
    assert again == "sweep: taken up again after 5 of 18 trials"
    assert len(sweep_start_lines(state, replace(state.sweep, records=()))) == 2


def test_a_trial_has_its_number_and_rounds_and_the_whole_is_counted_as_people_write_it() -> None:
    trial = replace(order_of(scripted_sweep.USUAL)[0], number=1234, active_ranks=1, batch_size=4)
    state = SweepScript(plan((1, 4, 8), (1, 2))).begun().over(1).state
    assert state.sweep is not None
    (record,) = state.sweep.records
    assert record.result is not None
    result = replace(record.result, rounds=1, tokens_per_second=1234.56, seconds=5.04)
    line = trial_line(TrialRecord(trial=trial, outcome="measured", result=result), 5000)
    assert line == "trial 1,234 of 5,000: 1 rank x batch size 4: 1,234.6 tok/s (1 round, 5.0 s)"


def test_a_reason_in_a_log_is_escaped() -> None:
    trial = order_of(scripted_sweep.USUAL)[0]
    line = trial_line(TrialRecord(trial=trial, outcome="failed", reason=EVIL), 30)
    assert "failed: [bold]␛[2J⟨U+202E⟩[/]" in line


def test_progress_in_a_log_counts_trials() -> None:
    line = progress_line(STATES["running"]().state)
    assert line.startswith("trial 15 of 30: 1 rank x batch size 1, repeat 2 of 3, measuring; ")
    assert "ETA 02:11" in line


def test_the_log_ends_with_the_table_the_knees_the_scaling_and_the_best_setting() -> None:
    lines = said(scripted_sweep.settled().ended())
    at = lines.index("sweep settled: all trials are over; 30 of 30 trials measured")
    assert lines[at - 1] == "completed"
    head, *rows = lines[at + 1 : at + 12]
    for title in (
        "batch size",
        "± 95 %",
        "with prompts",
        "ms/step",
        "p90 ms",
        "p99 ms",
        "peak GiB",
        "busy",
        "DRAM",
        "tok/J",
        "MBU",
    ):
        assert title in head
    assert {cell_len(row) for row in [head, *rows]} == {cell_len(head)}
    assert lines[at + 12] == "not available: tensor"
    assert lines[at + 13] == "knee at 1 rank: 16 -> 32: +4% ± 2%, +85% memory: stay at 16"
    assert lines[at + 15] == "scaling at batch size 32:"
    assert lines[at + 18].split() == ["2", "32", "5,245.4", "181.3", "1.89x", "0.05", "94%", "3%"]
    assert lines[at + 19] == "best with each number of ranks: the same"
    assert lines[-2] == (
        "best: 2 ranks x batch size 32: 5,245.4 ± 181.3 tok/s; faster than every other setting, beyond the noise"
    )
    assert lines[-1].endswith("--batch-size 32 --ranks 2")


def test_the_last_line_predicts_the_whole_file_at_the_chosen_setting_where_costs_are_known() -> None:
    state = scripted_sweep.settled().ended().state
    known = replace(state, costs=(point(16, ranks=2), point(32, ranks=2)))
    assert known.sweep is not None
    chosen = summarise_sweep(known.sweep).chosen
    assert chosen is not None
    row = whole_file(known, chosen.active_ranks, chosen.batch_size)
    assert row is not None
    *_, command, last = end_lines(known)
    assert command.startswith("run it: rankdeck run")
    assert last == (
        f"predicted for the 4,000 prompts of the file at fixed length: {row.seconds:,.1f} s in {row.rounds} rounds, "
        f"{row.tokens_per_second:,.1f} tok/s"
    )


def test_a_sweep_that_left_trials_out_is_not_reported_as_completed() -> None:
    script = SweepScript(plan((1, 4, 8), (1, 2))).begun().over(6).settled("by hand")
    lines = said(script.ended())
    at = lines.index("ended early")
    assert lines[at + 1] == "sweep ended early: by hand; 6 of 18 trials measured"


def test_where_the_best_is_within_the_noise_the_log_says_so_and_the_command_has_the_smaller_batch() -> None:
    lines = said(STATES["tied"]().ended())
    best = next(line for line in lines if line.startswith("best: "))
    assert best.startswith(
        "best: 2 ranks x batch size 32: 440.6 ± 2.8 tok/s; cannot be told apart from batch size 16 ("
    )
    assert "; about 3 repeats would tell; batch size 16 is chosen: " in best
    assert lines[lines.index(best) + 1].endswith("--batch-size 16 --ranks 2")


def test_with_one_repeat_the_log_says_that_the_noise_is_unknown() -> None:
    lines = said(SweepScript(plan((4, 8), (1,), 1), 1).begun().over(2).settled().ended())
    assert any("one repeat, so how far a figure varies is not known" in line for line in lines)
    assert any(line.startswith("best: ") and "; measured once: " in line for line in lines)


SIX = plan((1, 4, 8), (1, 2))
"""Six settings, three repeats of each."""


@pytest.mark.parametrize(
    ("over", "repeats", "noise"),
    [
        (0, "0 of 3 repeats; ", "; one repeat, so how far a figure varies is not known"),
        (3, "0 to 1 of 3 repeats; ", "; one repeat, so how far a figure varies is not known"),
        (9, "1 to 2 of 3 repeats, each in another order; ", "; ± 95 % interval where there are 2 repeats or more"),
        (12, "2 of 3 repeats, each in another order; ", "; ± 95 % interval (with 2 repeats ± 9.0 standard deviations)"),
        (18, "3 repeats, each in another order; ", "; ± 95 % interval"),
    ],
)
def test_once_a_sweep_is_over_its_repeats_are_those_that_were_measured(over: int, repeats: str, noise: str) -> None:
    script = SweepScript(SIX).begun().over(over)
    (planned,) = {line for line in said(script) if line.startswith("sweep: ")}
    assert planned.startswith("sweep: 3 repeats, each in another order; "), "while it runs, those of the plan"
    settled, stopped = script.settled("by hand"), SweepScript(SIX).begun().over(over).ended(status="stopped")
    for state in (settled.state, stopped.state):
        assert state.sweep is not None
        how = how_measured(state, state.sweep)
        assert how.startswith(f"{repeats}whole rounds after a warm-up, at least 2 and 5 s; fixed length; ")
        assert noise in how


def test_a_setting_that_ran_out_of_memory_does_not_count_as_having_fewer_repeats() -> None:
    state = SweepScript(SIX, fits=4).begun().over(18).settled().state
    assert state.sweep is not None
    assert how_measured(state, state.sweep).startswith("3 repeats, each in another order; ")


def test_too_few_repeats_bring_a_warning_that_says_what_more_would_show() -> None:
    assert repeats_warning(1) == "1 repeat is a first look: its noise is not known; 3 show it, 5 show it well"
    assert repeats_warning(2) == (
        "2 repeats have ± 9.0 standard deviations at 95 %, next to useless; 3 have ± 2.5, 5 ± 1.2"
    )
    assert repeats_warning(3) == ""


def test_a_sweep_inside_a_run_is_summarised_when_it_settles_and_again_at_the_end() -> None:
    script = SweepScript(plan((4, 8), (1,), 1, outputs=True), 1).begun(typed=True).over(2).settled()
    assert any(line.startswith("best: ") for line in said(script))
    assert sum(line.startswith("best: ") for line in said(script.ended())) == 2


def test_a_view_attached_after_the_end_prints_the_whole_sweep() -> None:
    state = scripted_sweep.settled().ended().state
    printed: list[str] = []
    PlainView(printed.append).show(Snapshot(state=state))
    assert "".join(printed).count("best: ") == 1
    assert end_lines(state)[-1].startswith("run it: rankdeck run")


# --- numbers as typed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"), [("1,2,4", [1, 2, 4]), (" 8  1, 1 ", [1, 8]), ("1-4", [1, 2, 3, 4]), ("2-3,8", [2, 3, 8])]
)
def test_lists_and_ranges_of_numbers_are_read(text: str, numbers: list[int]) -> None:
    assert read_numbers(text, most=100) == numbers


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "needs whole numbers, as in 1,2,4"),
        ("1,two", "not 'two'"),
        ("0", "must be numbers from 1 to 8, not 0"),
        ("9", "must be numbers from 1 to 8, not 9"),
        ("4-2", "not 4-2"),
        ("1-99999", "not 1-99999"),
        ("-3", "not '-3'"),
        ("²", "not '²'"),
    ],
)
def test_a_bad_number_is_named_in_the_message(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"must|needs") as caught:
        read_numbers(text, most=8)
    assert complaint in str(caught.value)


def test_where_there_is_no_mbu_it_is_said_why_and_where_a_rank_has_several_gpus_what_it_can_be() -> None:
    state = SweepScript(SIX).begun().over(3).state
    assert state.sweep is not None
    assert state.config is not None
    sweep = replace(state.sweep, bandwidth_bytes_per_second=4.8e12, bandwidth_source="data sheet of NVIDIA H200")
    assert how_measured(state, sweep).endswith("; MBU of 4,800 GB/s (data sheet of NVIDIA H200)")
    spread = replace(state, config=replace(state.config, gpus_per_rank=2))
    assert how_measured(spread, sweep).endswith(
        "(data sheet of NVIDIA H200), on each of a rank's 2 GPUs, which work one after the other: 50% at most"
    )
    without = replace(sweep, no_mbu="decode steps hold prefills")
    assert how_measured(state, without).endswith("; MBU n/a: decode steps hold prefills")
