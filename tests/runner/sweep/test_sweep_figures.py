"""A sweep's figures: one trial measured, cells with their noise, the knee in words, scaling, peak bandwidths."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.forecast.forecast import eta_seconds
from rankdeck.runner.protocol import BatchResult, DeviceSample, RankReady
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState, Trial, TrialRecord, TrialResult
from rankdeck.runner.state import RunState
from rankdeck.runner.supervisor.trial_meter import TrialMeter, percentile
from rankdeck.runner.sweep.cells import best, cells
from rankdeck.runner.sweep.intervals import T_95, estimate, ratio_half_width
from rankdeck.runner.sweep.scaling import best_scaling, knee, scaling
from rankdeck.runner.sweep.verdict import summarise_sweep

RATES = st.floats(1, 1e5)


def ready(rank: int, **facts: object) -> RankReady:
    values: dict[str, object] = {
        "rank": rank, "device": f"cuda:{rank}", "device_name": "NVIDIA H200", "dtype": "bfloat16", "engine": "static",
        "seconds": 1.0, "parameters": 1, "device_uuid": f"uuid-{rank}", "weight_read_bytes": 1000,
        "kv_bytes_per_token": 2,
    }  # fmt: skip
    return RankReady(**{**values, **facts})  # type: ignore[arg-type]


def batch(rows: int = 4, *, steps: int = 11, seconds: float = 2.0, **changes: object) -> BatchResult:
    values: dict[str, object] = {
        "rows": rows, "prompt_tokens": 8 * rows, "output_tokens": steps * rows, "slots": (10 + steps) * rows,
        "padded_slots": 2 * rows, "steps": steps, "prefill_seconds": 0.5, "decode_seconds": 1.0, "seconds": seconds,
        "step_seconds": [0.1] * (steps - 1),
    }  # fmt: skip
    return BatchResult(**{**values, **changes})  # type: ignore[arg-type]


def sample(number: int, **figures: object) -> DeviceSample:
    return DeviceSample(index=number, uuid=f"GPU-uuid-{number}", name="NVIDIA H200", **figures)  # type: ignore[arg-type]


def sweep(rates: dict[tuple[int, int], list[float]], **changes: object) -> SweepState:
    """A sweep that measured these rates, by ranks and batch size."""
    settings = [(ranks, size, rate) for (ranks, size), values in rates.items() for rate in values]
    records = tuple(
        TrialRecord(
            trial=Trial(number=number, repeat=1, active_ranks=ranks, batch_size=size),
            outcome="measured" if rate >= 0 else "out_of_memory",
            result=result(rate, ranks) if rate >= 0 else None,
        )
        for number, (ranks, size, rate) in enumerate(settings, 1)
    )
    plan = SweepPlan(batch_sizes=sorted({size for _, size in rates}), ranks=sorted({ranks for ranks, _ in rates}))
    values = {"plan": plan, "trials": tuple(record.trial for record in records), "records": records, **changes}
    return SweepState(**values)  # type: ignore[arg-type]


def result(rate: float, ranks: int = 1) -> TrialResult:
    return TrialResult(
        rounds=2, batches=2 * ranks, seconds=1.0, prompt_tokens=1, output_tokens=1, tokens_per_second=rate,
        total_tokens_per_second=rate, rank_tokens_per_second=[rate / ranks] * ranks, prefill_seconds=0.1,
        batch_seconds=0.5, step_ms=(1.0, 2.0, 3.0), padding_waste=0.1, idle=0.0, peak_memory_bytes=100,
    )  # fmt: skip


# --- one trial ----------------------------------------------------------------------------------


def test_a_trials_seconds_run_from_first_batch_to_last_result_and_idle_is_the_time_without_a_batch():
    meter = TrialMeter([ready(0), ready(1)], started=100.0)
    meter.add_batch(0, 100.0, 102.0, batch())
    meter.add_batch(0, 102.0, 104.0, batch())
    meter.add_batch(1, 100.0, 103.0, batch())
    meter.add_batch(1, 103.0, 105.0, batch())
    found = meter.result({})
    assert (found.rounds, found.batches, found.seconds) == (2, 4, 5.0)
    assert found.output_tokens == 4 * 44
    assert found.tokens_per_second == pytest.approx(176 / 5)
    assert found.total_tokens_per_second == pytest.approx((176 + 4 * 32) / 5)
    assert found.rank_tokens_per_second == pytest.approx([88 / 5, 88 / 5])
    assert found.idle == pytest.approx(1 - 9 / 10)
    assert found.padding_waste == pytest.approx(2 / 21)
    assert found.step_ms == pytest.approx((100, 100, 100))
    assert found.mbu is None, "without a peak bandwidth there is no share of it"


def test_a_trials_memory_is_the_most_that_any_of_its_batches_took():
    meter = TrialMeter([ready(0), ready(1)], started=0.0)
    for rank, peak, reserved in ((0, 10, 50), (0, 30, 60), (0, 20, 40), (1, 15, None)):
        meter.add_batch(rank, 0.0, 1.0, batch(peak_memory_bytes=peak, reserved_memory_bytes=reserved))
    found = meter.result({})
    assert (found.peak_memory_bytes, found.rank_peak_memory_bytes, found.reserved_memory_bytes) == (30, [30, 15], 60)


def test_mbu_counts_weights_and_the_cache_so_far_and_adds_up_ranks_that_share_a_device():
    # Ten decode steps in one second; each reads 1000 bytes of weights and 2 bytes for 4 rows x (10 + 5.5) tokens.
    read = 10 * (1000 + 2 * (84 - 22))
    alone = TrialMeter([ready(0)], started=0.0)
    alone.add_batch(0, 0.0, 2.0, batch())
    assert alone.result({0: 1e6}).mbu == pytest.approx(read / 1e6)
    shared = TrialMeter([ready(0), ready(1, device_uuid="uuid-0")], started=0.0)
    two = TrialMeter([ready(0), ready(1)], started=0.0)
    for meter in (shared, two):
        for rank in (0, 1):
            meter.add_batch(rank, 0.0, 2.0, batch())
    assert shared.result({0: 1e6, 1: 1e6}).mbu == pytest.approx(2 * read / 1e6)
    assert two.result({0: 1e6, 1: 1e6}).mbu == pytest.approx(read / 1e6)


def test_power_is_summed_over_the_trials_gpus_from_energy_counters_if_there_are_any():
    meter = TrialMeter([ready(0), ready(1)], started=0.0)
    for rank in (0, 1):
        meter.add_batch(rank, 0.0, 2.0, batch())
    for at, joules in ((0.5, 1000.0), (1.5, 1300.0)):
        meter.add_samples(at, [
            sample(0, energy_joules=joules, power_watts=1.0, busy_percent=90.0),
            sample(1, power_watts=100.0, busy_percent=70.0),
            sample(2, power_watts=700.0, busy_percent=0.0),
        ])  # fmt: skip
    found = meter.result({})
    assert found.power_watts == pytest.approx(300 + 100), "a GPU that no rank of the trial is on does not count"
    assert found.busy_percent == pytest.approx(80)
    assert found.tokens_per_joule == pytest.approx(found.tokens_per_second / 400)
    assert found.dram_percent is None


def test_where_a_rank_has_no_samples_power_is_unknown_and_its_tokens_are_not_given_to_the_others():
    meter = TrialMeter([ready(0), ready(1)], started=0.0)
    for rank in (0, 1):
        meter.add_batch(rank, 0.0, 2.0, batch())
    meter.add_samples(1.0, [sample(0, power_watts=400.0)])
    found = meter.result({})
    assert (found.power_watts, found.tokens_per_joule) == (None, None)


def test_where_one_of_the_gpus_of_a_rank_has_no_samples_its_power_is_unknown():
    meter = TrialMeter([ready(0, device_uuid="uuid-0", device_uuids=["uuid-0", "uuid-1"])], started=0.0)
    meter.add_batch(0, 0.0, 2.0, batch())
    meter.add_samples(1.0, [sample(0, power_watts=400.0)])
    assert meter.result({}).power_watts is None


@given(st.lists(RATES, min_size=1), st.floats(0, 100))
def test_a_percentile_lies_within_the_values_and_grows(values: list[float], percent: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert ordered[0] <= found <= ordered[-1] or math.isclose(found, ordered[-1])
    assert percentile(ordered, 0) == ordered[0]
    assert percentile(ordered, 100) == ordered[-1]


# --- cells --------------------------------------------------------------------------------------


def test_the_memory_of_a_cell_is_the_largest_and_its_other_figures_are_means():
    one, other = result(10), result(20)
    one = msgspec.structs.replace(one, peak_memory_bytes=300, reserved_memory_bytes=500, idle=0.1, mbu=None)
    other = msgspec.structs.replace(other, peak_memory_bytes=100, reserved_memory_bytes=None, idle=0.3, mbu=0.5)
    (cell,) = cells(with_results(one, other))
    assert (cell.peak_memory_bytes, cell.reserved_memory_bytes) == (300, 500)
    assert (cell.idle, cell.mbu) == (pytest.approx(0.2), 0.5), "a mean of those that are known"
    assert cell.step_ms == (1.0, 2.0, 3.0)


def with_results(*results: TrialResult) -> SweepState:
    state = sweep({(1, 8): [1.0] * len(results)})
    records = zip(state.records, results, strict=True)
    return msgspec.structs.replace(
        state, records=tuple(msgspec.structs.replace(record, result=made) for record, made in records)
    )


def test_a_cell_without_figures_has_the_reason_of_the_trial_that_was_tried():
    trial = Trial(number=1, repeat=1, active_ranks=1, batch_size=8)
    skipped = TrialRecord(trial=trial, outcome="skipped", reason="memory ran out before")
    tried = TrialRecord(trial=trial, outcome="out_of_memory", reason="no room for 8")
    state = sweep({(1, 8): [-1]})
    for records in ((skipped, tried), (tried, skipped)):
        (cell,) = cells(msgspec.structs.replace(state, records=records))
        assert (cell.outcome, cell.reason) == ("out_of_memory", "no room for 8")
    (cell,) = cells(msgspec.structs.replace(state, records=(skipped,)))
    assert (cell.outcome, cell.reason) == ("skipped", "memory ran out before")
    (cell,) = cells(msgspec.structs.replace(state, records=()))
    assert (cell.outcome, cell.reason) == (None, None)


def test_noise_that_leaves_no_doubt_of_less_than_5_percent_is_no_doubt_about_the_knee():
    # +1 % within 2 %: it may be no gain at all, but 5 % it is not.
    said = knee(cells(sweep({(1, 8): [99.8, 100, 100.2], (1, 16): [100.5, 101, 101.5]})), 1)
    assert said is not None
    assert said.sentence.endswith("stay at 8")
    assert (said.batch_size, said.ended, said.open) == (8, True, False)


def test_the_interval_uses_students_t_and_one_repeat_has_none():
    assert estimate([10.0]).half_width is None
    three = estimate([9.0, 10.0, 11.0])
    assert three.mean == 10
    assert three.half_width == pytest.approx(4.303 / 3**0.5)
    assert list(T_95) == sorted(T_95, reverse=True)


@given(st.lists(RATES, min_size=2, max_size=40), st.floats(0.1, 10))
def test_an_interval_scales_with_its_values(values: list[float], factor: float) -> None:
    one, other = estimate(values), estimate([value * factor for value in values])
    assert other.mean == pytest.approx(one.mean * factor)
    assert other.half_width == pytest.approx((one.half_width or 0) * factor, rel=1e-6, abs=1e-6)


def test_the_knee_is_the_last_size_worth_its_memory_and_says_so_with_its_noise():
    found = cells(sweep({(1, 8): [50, 50], (1, 16): [99, 101], (1, 32): [103, 105]}))
    said = knee(found, 1)
    assert said is not None
    assert (said.batch_size, said.ended) == (16, True)
    assert said.sentence.startswith("16 -> 32: +4% ± ")
    assert best(found) is found[2]


def test_a_change_within_its_noise_is_called_too_noisy():
    said = knee(cells(sweep({(1, 8): [60, 140], (1, 16): [80, 130]})), 1)
    assert said is not None
    assert said.sentence.endswith("too noisy to tell")


@pytest.mark.parametrize(
    ("rates", "size", "ended"),
    [
        ([100, 90, 112], 32, False),  # slower in between
        ([100, 90, 104], 8, True),  # and no larger one is worth it
        ([100, 60, 70, 103, 106], 64, True),  # the last is not worth it over the one before
        ([100, 104, 108, 112, 111], 32, True),  # small steps: 8 is beaten, and what beats it ends the growth
        ([100, 104, 106], 16, True),
        ([100, 120, 90, 125], 16, True),
        ([100, 120, 90, 127], 64, False),
    ],
)
def test_on_a_row_that_is_not_monotone_the_knee_is_the_smallest_size_that_no_larger_one_beats(rates, size, ended):
    sizes = (8, 16, 32, 64, 128)
    said = knee(cells(sweep({(1, size): [rate] for size, rate in zip(sizes, rates, strict=False)})), 1)
    assert said is not None
    assert (said.batch_size, said.ended, said.open) == (size, ended, not ended)
    assert (": stay at" in said.sentence) == ended


def test_growth_up_to_the_largest_size_or_to_out_of_memory_is_no_knee():
    grows = knee(cells(sweep({(1, 8): [50], (1, 16): [100]})), 1)
    assert grows is not None
    assert not grows.ended
    assert grows.sentence == "8 -> 16: +100%, +0% memory: still growing at 16, the largest tried"
    wall = knee(cells(sweep({(1, 8): [50], (1, 16): [100], (1, 32): [-1]})), 1)
    assert wall is not None
    assert wall.sentence.endswith("16 is the largest before out of memory at 32")
    assert knee(cells(sweep({(1, 8): [50]})), 1) is None


@pytest.mark.parametrize(
    ("rates", "at", "ended"),
    [
        ([50, 49, 100], 32, False),  # a dip before growth is not its end
        ([50, 51, 54], 32, False),  # twice a little is enough together
        ([50, 100, 60, 103], 16, True),  # nor is growth after a dip, if it only comes back
        ([50, 100, 60, 106], 64, False),
        ([100, 50, 60, 70], 8, True),
        ([50, 80, 70, 90, 91, 60], 64, True),
    ],
)
def test_on_a_row_that_rises_and_falls_the_knee_is_where_no_larger_size_gains_5_percent(rates, at, ended):
    sizes = [8 * 2**place for place in range(len(rates))]
    said = knee(cells(sweep({(1, size): [rate] for size, rate in zip(sizes, rates, strict=True)})), 1)
    assert said is not None
    assert (said.batch_size, said.ended) == (at, ended)
    assert said.open is not ended


@given(st.lists(RATES, min_size=2, max_size=7))
def test_no_size_beyond_the_knee_gains_5_percent_over_it(rates):
    found = cells(sweep({(1, 2**place): [rate] for place, rate in enumerate(rates)}))
    said = knee(found, 1)
    assert said is not None
    here = rates[said.batch_size.bit_length() - 1]
    assert all(rate < here * 1.05 for rate in rates[said.batch_size.bit_length() :])
    assert said.ended == (said.batch_size < found[-1].batch_size)


def test_a_knee_knows_only_its_own_ranks():
    found = cells(sweep({(1, 8): [50], (1, 16): [100], (2, 8): [90], (2, 16): [180], (2, 32): [-1]}))
    alone, both = knee(found, 1), knee(found, 2)
    assert alone is not None
    assert both is not None
    assert (alone.open, both.open) == (True, False), "memory ran out with two ranks, not with one"
    assert "out of memory" not in alone.sentence


def test_speedup_is_over_the_fewest_ranks_and_nothing_is_divided_by_zero():
    rows = scaling(cells(sweep({(1, 8): [50], (2, 8): [90], (4, 8): [160]})), 8)
    assert [(row.speedup, row.efficiency) for row in rows] == [(1, 1), (1.8, 0.9), (3.2, 0.8)]
    from_two = scaling(cells(sweep({(2, 8): [100], (4, 8): [150]})), 8)
    assert [row.efficiency for row in from_two] == [1, 0.75]
    still = sweep({(1, 8): [0, 0], (2, 8): [0, 0], (1, 16): [0, 0]})
    assert scaling(cells(still), 8) == []
    assert summarise_sweep(still).best is not None


def test_a_speedup_has_the_noise_of_both_its_figures_and_an_efficiency_that_noise_per_rank():
    first, second = scaling(cells(sweep({(1, 8): [49, 50, 51], (2, 8): [88, 90, 92]})), 8)
    assert (first.speedup_half_width, first.efficiency_half_width) == (None, None), "it is compared with itself"
    assert second.speedup_half_width == ratio_half_width(estimate([49, 50, 51]), estimate([88, 90, 92]))
    assert second.efficiency_half_width == pytest.approx((second.speedup_half_width or 0) / 2)
    from_two = scaling(cells(sweep({(2, 8): [49, 50, 51], (4, 8): [88, 90, 92]})), 8)[1]
    assert from_two.speedup_half_width == pytest.approx(2 * (second.speedup_half_width or 0))
    once = scaling(cells(sweep({(1, 8): [50], (2, 8): [90]})), 8)[1]
    assert once.speedup_half_width is None, "the noise of one repeat is unknown"


def test_the_best_with_n_ranks_is_compared_with_the_best_with_one_whatever_their_batch_sizes():
    found = cells(sweep({(1, 16): [51], (1, 64): [88], (2, 16): [102], (2, 64): [81]}))
    assert [row.speedup for row in scaling(found, 16)] == [1, 2]
    rows = best_scaling(found)
    assert [row.setting for row in rows] == [(1, 64), (2, 16)]
    assert [row.speedup for row in rows] == pytest.approx([1, 102 / 88])
    assert [row.efficiency for row in rows] == pytest.approx([1, 51 / 88])
    assert best_scaling(cells(sweep({(2, 16): [102], (2, 64): [81]}))) == [], "one number of ranks scales to nothing"


def test_the_time_left_is_estimated_from_trials_of_the_same_settings():
    state = sweep({(1, 1): [10, 10], (1, 8): [50, 50]})
    assert eta_seconds(RunState(phase="running", sweep=state)) is None
    half = SweepState(
        plan=state.plan, trials=state.trials, records=(state.records[0], state.records[2]), took={1: 4.0, 3: 10.0}
    )
    assert eta_seconds(RunState(phase="running", sweep=half)) == pytest.approx(14)


@pytest.mark.parametrize(("one", "other", "said"), [(100, 150, True), (100, None, False), (None, 100, False)])
def test_memory_is_compared_only_where_both_sizes_have_a_figure(one: int | None, other: int | None, said: bool):
    state = sweep({(1, 8): [50.0], (1, 16): [100.0]})
    records = tuple(
        msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, peak_memory_bytes=peak))
        for record, peak in zip(state.records, (one, other), strict=True)
    )
    found = knee(cells(msgspec.structs.replace(state, records=records)), 1)
    assert found is not None
    memory = ", +50% memory" if said else ""
    assert found.sentence == f"8 -> 16: +100%{memory}: still growing at 16, the largest tried"


def test_a_summary_has_all_that_the_sweep_knows_and_counts_what_is_left():
    state = sweep({(1, 8): [50.0], (2, 8): [90.0], (2, 16): [-1.0]}, bandwidth_bytes_per_second=9.0,
                  bandwidth_source="copy", no_mbu="why")  # fmt: skip
    trial = Trial(number=9, repeat=1, active_ranks=1, batch_size=16)
    state = msgspec.structs.replace(state, trials=(*state.trials, trial))
    found = summarise_sweep(state)
    assert (found.trials, found.measured, found.left) == (4, 2, 1)
    assert (found.bandwidth_bytes_per_second, found.bandwidth_source, found.no_mbu) == (9.0, "copy", "why")
    assert found.records == list(state.records)
    assert found.chosen == found.best == best(found.cells)
    assert [row.batch_size for row in found.scaling] == [8, 8]
    assert msgspec.structs.replace(found, verdict=None).chosen == found.best
    assert msgspec.structs.replace(found, records=[]).left == 0, "older figures have no records"
    assert msgspec.structs.replace(found, records=[], measured=0).left == 4
