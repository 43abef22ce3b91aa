"""What each setting brought: a row per batch size and active ranks, over all its periods, with its spread and load."""

import math
import statistics

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.protocol import RankReady
from rankdeck.runner.state import RunState
from rankdeck.runner.state.load import Load, LoadMeans, Mean, means
from rankdeck.runner.state.periods import KnobPeriod, RankShare, merged, share_of_batch
from rankdeck.runner.state.settings import SettingRow, all_settings, best_setting, current_setting, settings
from rankdeck.runner.sweep.intervals import estimate
from rankdeck.runner.sweep.mbu import Reading
from tests import scripted
from tests.runner.state.test_state import play
from tests.runner.state.test_state import ready as bare


def period(size: int, *ranks: list[tuple[int, float]], cold: bool = False, **values: object) -> KnobPeriod:
    """A period with these batches of each rank: output tokens and seconds."""
    found = KnobPeriod(batch_size=size, active_ranks=len(ranks), **values)  # type: ignore[arg-type]
    for rank, batches in enumerate(ranks):
        for tokens, seconds in batches:
            found = found.with_batch(rank, share_of_batch(tokens, seconds, cold=cold))
    return found


def even(size: int, ranks: int, rate: int, *, cold: bool = False) -> KnobPeriod:
    """A batch of one second on each rank."""
    return period(size, *([[(rate, 1.0)]] * ranks), cold=cold)


# --- rows -------------------------------------------------------------------------------------------


def test_a_setting_is_one_row_however_often_it_was_turned_to_and_rows_go_by_size_and_ranks() -> None:
    rows = settings(
        [even(8, 2, 50), even(4, 2, 30), even(8, 1, 60), even(8, 2, 70), even(4, 1, 40), even(4, 2, 50), even(16, 3, 9)]
    )
    assert [(row.setting, row.tokens_per_second, row.batches) for row in rows] == [
        ((4, 1), 40.0, 1),
        ((4, 2), 80.0, 4),
        ((8, 1), 60.0, 1),
        ((8, 2), 120.0, 4),
        ((16, 3), 27.0, 3),
    ]
    assert [row.per_rank for row in rows] == [40.0, 40.0, 60.0, 60.0, 9.0]


def test_a_period_in_which_not_every_rank_ended_a_batch_is_part_of_no_row() -> None:
    half = period(4, [(500, 1.0)], [])
    assert settings([half]) == []
    (row,) = settings([half, even(4, 2, 30)])
    assert (row.tokens_per_second, row.batches) == (60.0, 2)


BATCHES = st.lists(st.tuples(st.integers(0, 10**6), st.floats(0.01, 1e4)), min_size=1, max_size=6)


@given(st.lists(st.tuples(BATCHES, BATCHES), min_size=1, max_size=4))
def test_many_periods_of_a_setting_are_as_one_with_all_their_batches(parts) -> None:
    (row,) = settings([period(4, *ranks, load=means([Load(0.0, busy=5.0)])) for ranks in parts])
    (whole,) = settings([period(4, *([batch for ranks in parts for batch in ranks[rank]] for rank in (0, 1)))])
    assert (row.batches, row.cold) == (whole.batches, False)
    assert row.tokens_per_second == pytest.approx(whole.tokens_per_second)
    assert row.load.busy == Mean(5.0 * len(parts), len(parts))


def test_periods_put_together_keep_the_highest_memory_and_began_with_the_first() -> None:
    one = msgspec.structs.replace(even(4, 1, 30), began=1.0, number=1, peak_memory_bytes=7, reserved_memory_bytes=9)
    other = msgspec.structs.replace(even(4, 1, 30), began=5.0, number=3, peak_memory_bytes=6)
    both = merged(one, other)
    assert (both.began, both.number, both.batches) == (1.0, 1, 2)
    assert (both.peak_memory_bytes, both.reserved_memory_bytes) == (7, 9)
    assert (merged(other, one).peak_memory_bytes, merged(other, other).reserved_memory_bytes) == (7, None)


def test_cold_batches_give_way_to_warm_ones_of_another_period() -> None:
    cold, warm = even(4, 2, 10, cold=True), even(4, 2, 50)
    (row,) = settings([cold])
    assert (row.cold, row.tokens_per_second) == (True, 20.0)
    for periods in ([cold, warm], [warm, cold]):
        (row,) = settings(periods)
        assert (row.cold, row.tokens_per_second, row.batches) == (False, 100.0, 2)


# --- the best, and speedup --------------------------------------------------------------------------


def test_the_best_is_the_one_with_the_most_tokens_a_second_of_two_that_can_be_compared() -> None:
    assert best_setting([]) is None
    assert best_setting(settings([even(4, 1, 40)])) is None, "the best of one is no news"
    assert best_setting(settings([even(4, 1, 40), even(8, 1, 90, cold=True)])) is None
    rows = settings([even(4, 1, 40), even(8, 1, 60), even(16, 1, 50), even(32, 1, 90, cold=True)])
    best = best_setting(rows)
    assert best is not None
    assert best.setting == (8, 1), "cold batches are compared with no other"


def test_speedup_is_over_one_rank_at_the_same_batch_size_alone() -> None:
    rows = settings([even(4, 1, 100), even(4, 2, 90), even(8, 2, 500), even(16, 1, 70), even(16, 4, 70)])
    assert [(row.setting, row.speedup, row.efficiency) for row in rows] == [
        ((4, 1), 1.0, 1.0),
        ((4, 2), 1.8, 0.9),
        ((8, 2), None, None),
        ((16, 1), 1.0, 1.0),
        ((16, 4), 4.0, 1.0),
    ]


@pytest.mark.parametrize("which", ["one", "both"])
def test_there_is_no_speedup_from_or_to_cold_batches(which: str) -> None:
    rows = settings([even(4, 1, 100, cold=which == "one"), even(4, 2, 90, cold=which == "both")])
    assert rows[1].speedup is None


# --- the spread -------------------------------------------------------------------------------------


def test_a_rate_has_no_spread_before_each_active_rank_has_ended_two_batches() -> None:
    two = [(100, 1.0), (120, 1.0)]
    assert period(4, two[:1]).half_width is None
    assert period(4, two, two[:1]).half_width is None
    assert period(4, two, []).half_width is None
    assert period(4, two).half_width == pytest.approx(estimate([100.0, 120.0]).half_width)
    (row,) = settings([period(4, two, two)])
    assert row.half_width is not None
    (row,) = settings([period(4, two[:1]), period(4, two[1:])])
    assert row.half_width == period(4, two).half_width, "of two periods together"
    nothing = period(4, [*two, (0, 0.0)], [(5, 0.0), (5, 0.0)])
    assert nothing.half_width is None, "batches that took no time measure nothing"


RATES = st.lists(st.floats(1.0, 1e5), min_size=2, max_size=8)


@given(RATES)
def test_the_spread_of_one_ranks_batches_is_that_of_their_rates(rates: list[float]) -> None:
    share = RankShare(cold=True)
    for rate in rates:
        share = share.plus(share_of_batch(10**9, 10**9 / rate))
    error = statistics.stdev(rates) / math.sqrt(len(rates))
    assert share.standard_error == pytest.approx(error, rel=1e-3, abs=1e-4 * max(rates))


@given(RATES, RATES)
def test_ranks_that_vary_by_themselves_vary_less_together_than_added_up(one: list[float], other: list[float]) -> None:
    parts = [[(round(rate), 1.0) for rate in rates] for rates in (one, other)]
    alone = [period(4, part).half_width or 0.0 for part in parts]
    together = period(4, *parts).half_width
    assert together is not None
    assert together <= sum(alone) * 1.001 + 1e-3 * max(*one, *other)


def test_a_batch_that_took_no_time_has_no_rate() -> None:
    share = share_of_batch(50, 0.0)
    assert (share.rates, share.squares, share.standard_error) == (0.0, 0.0, None)


# --- tokens per joule -------------------------------------------------------------------------------


def measured(seconds: float, **figures: list[float | None]) -> RunState:
    """A run on one GPU with a sample each second, and a batch of 100 tokens after the last one of them.

    A sample is of the second before it, so the one just when the batch begins does not count.
    """
    state = play(
        *scripted.Script(1, gpus=1).started().launched().ready().events,
        protocol.BatchStarted(at=scripted.START + 20, rank=0, batch=1, rows=2, warm_up=True),
    )
    at = state.now
    state = play(
        protocol.BatchFinished(at=at, rank=0, batch=1, result=result()),
        protocol.BatchStarted(at=at, rank=0, batch=2, rows=2),
        state=state,
    )
    state = play(protocol.Tick(at=at, devices=[scripted.gpu(0)]), state=state)
    for number, values in enumerate(zip(*figures.values(), strict=True), 1):
        sample = msgspec.structs.replace(scripted.gpu(0), **dict(zip(figures, values, strict=True)))
        state = play(protocol.Tick(at=at + number, devices=[sample]), state=state)
    return play(protocol.BatchFinished(at=at + seconds, rank=0, batch=2, result=result()), state=state)


def result() -> protocol.BatchResult:
    return protocol.BatchResult(
        rows=2, prompt_tokens=6, output_tokens=100, slots=120, padded_slots=0, steps=50, prefill_seconds=0.1,
        decode_seconds=3.9, seconds=4.0,
    )  # fmt: skip


def test_tokens_per_joule_are_by_the_counter_of_energy() -> None:
    state = measured(4.0, energy_joules=[1000.0, 1200.0, 1600.0], power_watts=[200.0, 9.0, 9.0])
    (row,) = all_settings(state)
    # The first sample has no counter to compare with: 200 W, then 200 and 400 J in a second each.
    assert row.load.watts == Mean(800.0, 3)
    assert row.tokens_per_joule == pytest.approx((100 / 4) / (800 / 3))


def test_without_such_a_counter_they_are_by_the_power_of_each_sample_and_without_either_unknown() -> None:
    (row,) = all_settings(measured(4.0, energy_joules=[None, None], power_watts=[100.0, 300.0]))
    assert row.tokens_per_joule == pytest.approx(25 / 200)
    (row,) = all_settings(measured(4.0, energy_joules=[None], power_watts=[None]))
    assert row.tokens_per_joule is None
    (row,) = settings([even(4, 1, 10)])
    assert (row.tokens_per_joule, row.load) == (None, LoadMeans())


def test_the_present_setting_is_that_of_the_knobs_once_it_was_measured() -> None:
    state = measured(4.0, busy_percent=[50.0])
    row = current_setting(state)
    assert row is not None
    assert (row.setting, row.load.busy.value) == ((16, 1), 50.0)
    turned = protocol.BatchSizeChanged(at=state.now, batch_size=32, auto=False, reason="as asked for")
    assert current_setting(play(turned, state=state)) is None


# --- shares of what the devices reach at most -------------------------------------------------------


def ready(rank: int, **facts: object) -> RankReady:
    limits = {"bandwidth_bytes_per_second": 100.0, "matrix_flops_per_second": 1000.0}
    return bare(rank, **{"weight_read_bytes": 1, "kv_bytes_per_token": 1, **limits, **facts})


def loaded(*shares: tuple[float, float], seconds: float = 2.0) -> KnobPeriod:
    """A batch of each rank that read so many bytes and computed so many operations in a second."""
    found = KnobPeriod(batch_size=4, active_ranks=len(shares))
    for rank, (read, flops) in enumerate(shares):
        share = share_of_batch(10, seconds, read=Reading(read * seconds, seconds), flops=flops * seconds)
        found = found.with_batch(rank, share)
    return found


def test_on_a_cpu_a_rank_with_more_threads_is_held_against_so_many_times_the_limits() -> None:
    both = [ready(rank, threads=1, cores=2) for rank in (0, 1)]
    assert shares(loaded((80.0, 900.0)), *both) == (0.4, 0.45), "alone it has both cores"
    assert shares(loaded((80.0, 900.0), (80.0, 900.0)), *both) == (0.8, 0.9)
    old = [ready(rank, threads=2) for rank in (0, 1)]
    assert shares(loaded((80.0, 900.0)), *old) == (0.4, 0.45), "the number of cores was not recorded"
    assert shares(loaded((80.0, 900.0)), ready(0), ready(1)) == (0.8, 0.9), "nor that of threads"


def test_a_setting_has_the_padding_of_its_own_batches() -> None:
    period = KnobPeriod(batch_size=4, active_ranks=1)
    assert period.padding_waste is None
    for padded in (10, 50):
        period = period.with_batch(0, share_of_batch(10, 1.0, slots=100, padded_slots=padded))
    (row,) = settings([period, KnobPeriod(batch_size=8, active_ranks=1)])
    assert (period.padding_waste, row.padding_waste) == (0.3, 0.3)


def shares(found: KnobPeriod, *ranks: RankReady) -> tuple[float | None, float | None]:
    (row,) = settings([found], ranks)
    return row.mbu, row.matrix_share


def test_on_a_cpu_each_rank_is_held_against_what_its_own_threads_reach() -> None:
    two = loaded((40.0, 300.0), (80.0, 500.0))
    assert shares(two, ready(0), ready(1)) == (pytest.approx(0.6), pytest.approx(0.4))
    slow = ready(1, device_name="other", bandwidth_bytes_per_second=200.0, matrix_flops_per_second=5000.0)
    assert shares(two, ready(0), slow) == (pytest.approx(0.4), pytest.approx(0.2))


@pytest.mark.parametrize("uuid", ["a", None], ids=["of one UUID", "of one name"])
def test_ranks_that_share_a_gpu_add_up(uuid: str | None) -> None:
    two = loaded((40.0, 300.0), (50.0, 500.0))
    shared = [ready(rank, device="cuda:0", device_uuid=uuid) for rank in (0, 1)]
    assert shares(two, *shared) == (pytest.approx(0.9), pytest.approx(0.8))


def test_over_several_gpus_the_share_is_their_mean() -> None:
    two = loaded((40.0, 300.0), (50.0, 500.0))
    own = [ready(rank, device=f"cuda:{rank}", device_uuid=str(rank)) for rank in (0, 1)]
    assert shares(two, *own) == (pytest.approx(0.45), pytest.approx(0.4))
    spread = ready(0, device="cuda:0", device_uuids=["a", "b"])
    assert shares(loaded((40.0, 300.0)), spread) == (pytest.approx(0.2), pytest.approx(0.15))


def test_a_share_is_of_all_batches_of_the_setting() -> None:
    (row,) = settings([loaded((40.0, 300.0)), loaded((80.0, 600.0), seconds=6.0)], [ready(0)])
    assert (row.mbu, row.matrix_share) == (pytest.approx(0.7), pytest.approx(0.525))


def test_a_share_that_one_rank_does_not_have_is_not_known() -> None:
    nothing = loaded((40.0, 300.0)).with_batch(1, share_of_batch(10, 2.0))
    nothing = msgspec.structs.replace(nothing, active_ranks=2)
    assert shares(nothing, ready(0), ready(1))[1] is None
    on_gpus = [ready(rank, device=f"cuda:{rank}", device_uuid=str(rank)) for rank in (0, 1)]
    assert shares(nothing, *on_gpus) == (None, None)
    unknown = [ready(0, bandwidth_bytes_per_second=None, matrix_flops_per_second=None)]
    assert shares(loaded((40.0, 300.0)), *unknown) == (None, None)
    assert shares(loaded((40.0, 300.0))) == (None, None), "nobody is ready"


def test_the_settings_of_a_run_have_the_shares_of_its_own_ranks() -> None:
    row: SettingRow | None = current_setting(measured(4.0, busy_percent=[50.0]))
    assert row is not None
    assert row.mbu is not None
    assert row.matrix_share is not None
    assert 0 < row.matrix_share < row.mbu < 1
