"""A sweep in words, each function by itself: what it is, where it stands, what it found, how sure that is."""

from typing import Any

import pytest
from msgspec.structs import replace

from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.intervals import Estimate
from rankdeck.runner.sweep.scaling import Knee
from rankdeck.runner.sweep.verdict import SweepSummary, Verdict
from rankdeck.tui.words import sweep as words
from rankdeck.tui.words.sweep import Value
from tests import scripted
from tests.scripted_sweep import SweepScript, before_the_ranks, plan

SIX = plan((1, 4, 8), (1, 2))


def cell(ranks: int, size: int, mean: float | None, half: float | None = None, count: int = 3, **more: Any) -> Cell:
    rate = Estimate(mean=mean, half_width=half, count=count) if mean is not None else None
    return Cell(active_ranks=ranks, batch_size=size, outcome="measured", tokens_per_second=rate, **more)


def summary(*cells: Cell, best: Cell | None = None, chosen: Cell | None = None, **verdict: Any) -> SweepSummary:
    said = {"noise_known": True, "tied": [], "repeats": None, "sentence": "it is so", **verdict}
    return SweepSummary(
        trials=9, measured=9, best=best, cells=list(cells), knees=[], scaling=[],
        verdict=Verdict(chosen=chosen, **said) if chosen is not None else None,
    )  # fmt: skip


def test_a_plan_is_a_product_of_what_differs_in_it() -> None:
    doubled = plan((4, 4, 8), (2, 1, 2), 2)
    assert words.planned(doubled) == 2 * 2 * 2
    assert words.plan_words(doubled) == "8 trials: 2 batch sizes x 2 numbers of ranks x 2 repeats"
    assert words.plan_words(plan((4,), (1,), 1)) == "1 trial: 1 batch size x 1 number of ranks x 1 repeat"
    assert words.fewest_prompts(doubled) == 2 * 2 * (4 + 8) * (1 + 2)
    config = words.with_plan(scripted.config(), SIX)
    assert (config.sweep, config.model) == (SIX, scripted.config().model)


def test_a_sweep_is_that_which_runs_or_ran_and_else_the_planned_one() -> None:
    asked, running = before_the_ranks().state, SweepScript(SIX).begun().over(1).state
    assert running.sweep is not None
    assert words.shown_sweep(running) is running.sweep
    shown = words.shown_sweep(asked)
    assert shown is not None
    assert asked.config is not None
    assert (shown.plan, shown.trials) == (asked.config.sweep, ())
    assert words.shown_sweep(RunState()) is words.shown_sweep(scripted.running().state) is None


def test_whether_a_run_only_measures_and_whether_it_throws_its_answers_away() -> None:
    kept = plan((4, 8), (1,), 1, outputs=True)
    cases = [
        (RunState(), False, False),
        (scripted.running().state, False, False),
        (before_the_ranks().state, True, True),
        (SweepScript(SIX).begun().over(1).state, True, True),
        (SweepScript(kept, 1).begun().over(1).state, True, False),
        (SweepScript(kept, 1).begun().over(2).settled().state, False, False),
        (SweepScript(SIX).begun().over(18).settled().state, True, True),
    ]
    for state, only, thrown in cases:
        assert (words.only_measures(state), words.answers_thrown_away(state)) == (only, thrown)


def test_only_a_sweep_that_measured_and_left_trials_out_ended_early() -> None:
    short, whole = SweepScript(SIX).begun().over(6).settled("by hand"), SweepScript(SIX).begun().over(18).settled()
    assert words.how_ended(whole.ended().state) == "completed"
    assert words.how_ended(short.ended().state) == "ended early"
    stopped = SweepScript(SIX).begun().over(6).settled("by hand").ended(status="stopped").state
    assert words.how_ended(stopped) == "stopped"
    along = SweepScript(plan((4, 8), (1,), 1, outputs=True), 1).begun(typed=True).over(1).settled("by hand").ended()
    assert words.how_ended(along.state) == "completed", "its prompts were answered all the same"


def test_where_a_sweep_stands_is_said_at_every_stage() -> None:
    planned = before_the_ranks().state
    sweep = words.shown_sweep(planned)
    assert sweep is not None
    assert words.standing(planned, sweep) == (
        f"{words.planned(sweep.plan)} trials planned, from the moment all ranks are ready"
    )
    stages = [
        (SweepScript(SIX).begun(), "trial 1 of 18", "between trials"),
        (SweepScript(SIX).begun().over(3), "trial 4 of 18", "between trials"),
        (SweepScript(SIX).begun().over(18), "trial 18 of 18", "between trials"),
        (SweepScript(SIX).begun().over(3).at_hand(measuring=False), None, "warming up"),
        (SweepScript(SIX).begun().over(3).at_hand(), None, "measuring"),
        (SweepScript(SIX).begun().over(18).settled(), "settled: all trials are over", None),
        (SweepScript(SIX).begun().over(6).settled("by hand"), "ended early: by hand", None),
        (SweepScript(SIX).begun().over(6).ended(status="stopped"), "stopped after 6 of 18 trials", None),
    ]
    for script, stands, happens in stages:
        state = script.state
        assert state.sweep is not None
        current = state.sweep.current
        if current is not None:
            stands = f"trial 4 of 18: {words.setting(current.active_ranks, current.batch_size)}"
            assert words.current_trial_number(state.sweep) == 4
        assert words.standing(state, state.sweep) == stands
        if happens is not None:
            assert words.what_happens(state.sweep) == happens
            line = words.sweep_progress_line(state, state.sweep)
            repeat = f", repeat {current.repeat} of 3" if current is not None else ""
            assert line.startswith(f"{stands}{repeat}, {happens}; {state.rate_now:.0f} tok/s now")
    unknown = replace(planned, ended=scripted.failed().state.ended)
    assert words.standing(unknown, sweep) == f"failed after 0 of {words.planned(sweep.plan)} trials"


def test_settings_and_estimates_read_the_same_everywhere() -> None:
    one, two = cell(1, 16, 143.26), cell(2, 8, 1234.5, 3.14)
    assert words.setting(1, 16) == "1 rank x batch size 16"
    assert words.short_setting(two) == "2 ranks x 8"
    assert words.best_words(one) == "1 rank x batch size 16: 143.3 tok/s"
    assert words.best_words(two, 0) == "2 ranks x batch size 8: 1,234 ± 3 tok/s"
    assert two.tokens_per_second is not None
    assert words.estimate_value(two.tokens_per_second, 1) == Value(1234.5, "1,234.5", "3.1")
    assert words.value_of(0.5, None, str) == Value(0.5, "0.5", "")
    assert words.rate_places([]) == words.rate_places([one, cell(1, 1, None), cell(1, 2, 9999.9)]) == 1
    assert words.rate_places([one, cell(1, 2, 10_000)]) == 0
    assert [words.times(speedup) for speedup in (1.934, 9.994, 10, 99.94, 100.4)] == [
        "1.93x", "9.99x", "10.0x", "99.9x", "100x",
    ]  # fmt: skip


def test_the_best_is_named_with_how_sure_that_is() -> None:
    one, other = cell(1, 16, 143.2, 3.1), cell(2, 8, 9.0, 1.0)
    assert words.best_sentence(summary()) == ""
    assert words.best_sentence(summary(one, best=one)) == "1 rank x batch size 16: 143.2 ± 3.1 tok/s"
    assert (
        words.best_sentence(summary(one, best=one, chosen=one, sentence=""))
        == "1 rank x batch size 16: 143.2 ± 3.1 tok/s"
    )
    assert words.best_sentence(summary(one, best=one, chosen=one)).endswith(" tok/s; it is so")
    tied = {(1, 0): "", (1, 1): "tied with 1 other", (1, 2): "tied with 2 others", (0, 1): "measured once"}
    for (known, number), said in tied.items():
        found = summary(one, best=one, chosen=one, noise_known=bool(known), tied=[other.setting] * number)
        assert words.tied_words(found.verdict) == said
    assert (
        words.tied_words(None) == words.tied_words(summary(one, chosen=one, sentence="", tied=[(1, 1)]).verdict) == ""
    )


def test_scaling_is_told_at_the_size_that_is_run_or_else_at_the_fastest_that_has_any() -> None:
    two = [cell(1, 8, 50), cell(2, 8, 99.5), cell(1, 32, 100), cell(2, 32, 127)]
    assert words.scaling_words(summary(*two, best=two[3], chosen=two[3])) == (
        "scaling, 2 ranks over 1: 1.27x at batch size 32, 1.99x at 8"
    )
    assert [row.batch_size for row in words.scaling_shown(summary(*two, best=two[3], chosen=two[0]))] == [8, 8]
    alone = cell(2, 64, 200)
    assert [row.batch_size for row in words.scaling_shown(summary(*two, alone, best=alone, chosen=alone))] == [32, 32]
    three = [cell(1, 8, 50), cell(2, 8, 95), cell(4, 8, 160)]
    assert words.scaling_words(summary(*three, best=three[2], chosen=three[2])) == (
        "scaling at batch size 8, over 1 rank: 2 ranks 1.90x, 4 ranks 3.20x"
    )
    odd = [cell(2, 8, 50), cell(4, 8, 95), cell(6, 8, 120)]
    assert words.scaling_words(summary(*odd, best=odd[2], chosen=odd[2])) == (
        "scaling at batch size 8, over 2 ranks: 4 ranks 1.90x, 6 ranks 2.40x"
    )
    assert words.scaling_words(summary(cell(1, 8, 50), best=two[0], chosen=two[0])) == ""


def test_only_knees_at_which_growth_was_seen_to_end_are_true() -> None:
    knees = [
        Knee(active_ranks=ranks, batch_size=size, sentence="", ended=ended)
        for ranks, size, ended in ((1, 16, True), (2, 32, False), (4, 8, True))
    ]
    assert words.true_knees(replace(summary(), knees=knees)) == [(1, 16), (4, 8)]


def test_repeats_are_counted_of_settings_that_could_be_measured() -> None:
    out = Cell(active_ranks=2, batch_size=64, outcome="out_of_memory")
    failed = Cell(active_ranks=2, batch_size=32, outcome="failed")
    waiting = Cell(active_ranks=2, batch_size=16, outcome=None)
    found = [cell(1, 1, 5, count=3), cell(1, 2, 5, count=2), out, failed]
    assert words.repeats_measured(found) == (2, 3)
    assert words.repeats_measured([*found, waiting]) == (0, 3)
    assert words.repeats_measured([]) == (0, 0)
    assert [words.repeats_words(SIX, *counts) for counts in ((3, 3), (2, 2), (1, 3), (0, 0))] == [
        "3 repeats", "2 of 3 repeats", "1 to 3 of 3 repeats", "0 of 3 repeats",
    ]  # fmt: skip


def test_how_it_was_measured_names_what_was_cut_and_what_mbu_is_of() -> None:
    state = SweepScript(SIX).begun().over(3).state
    assert state.sweep is not None
    assert state.config is not None
    cut = replace(state.sweep, plan=replace(SIX, trial_tokens=32, least_rounds=4, least_seconds=2.5))
    said = words.how_measured(state, cut)
    assert "whole rounds after a warm-up, at least 4 and 2.5 s; fixed length, answers cut at 32 tokens; " in said
    once = replace(state.sweep, plan=replace(SIX, repeats=1))
    assert words.how_measured(state, once).startswith("whole rounds after a warm-up")
    assert "; fixed length" not in words.how_measured(replace(state, config=None), cut)
    assert words.bandwidth_words(3.35e12, "a table") == "3,350 GB/s (a table)"
    assert words.bandwidth_words(3.35e12, None) == "3,350 GB/s"
    assert words.spread_words(None) == words.spread_words(state.config) == []
    assert words.spread_words(replace(state.config, gpus_per_rank=4)) == [
        "on each of a rank's 4 GPUs, which work one after the other: 25% at most"
    ]


@pytest.mark.parametrize("repeats", [3, 4, 9])
def test_enough_repeats_bring_no_warning(repeats: int) -> None:
    assert words.repeats_warning(repeats) == ""
