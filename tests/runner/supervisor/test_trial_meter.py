"""The figures of a trial, each worked out by hand."""

import msgspec
import pytest

from rankdeck.runner.protocol import BatchResult
from rankdeck.runner.supervisor.trial_meter import TrialMeter, percentile
from tests.runner.sweep.test_sweep_figures import ready, sample


def account(**changes) -> BatchResult:
    usual = {
        "rows": 2, "prompt_tokens": 10, "output_tokens": 8, "slots": 40, "padded_slots": 10, "steps": 4,
        "prefill_seconds": 0.5, "decode_seconds": 1.5, "seconds": 2.0,
    }  # fmt: skip
    return BatchResult(**{**usual, **changes})


def test_every_figure_of_a_trial_is_of_its_own_batches_and_seconds():
    meter = TrialMeter([ready(0), ready(1)], started=10.0)
    meter.add_batch(0, 10.0, 14.0, account(step_seconds=[0.2, 0.1], peak_memory_bytes=7, reserved_memory_bytes=9))
    meter.add_batch(1, 11.0, 13.0, account(prefill_seconds=1.5, output_tokens=4, step_seconds=[0.3]))
    meter.add_batch(1, 13.0, 13.5, account(padded_slots=30, peak_memory_bytes=5, reserved_memory_bytes=11))
    found = meter.result({})
    assert (found.rounds, found.batches, found.seconds) == (1, 3, 4.0)
    assert (found.prompt_tokens, found.output_tokens) == (30, 20)
    assert (found.tokens_per_second, found.total_tokens_per_second) == (5.0, 12.5)
    assert found.rank_tokens_per_second == [2.0, 3.0]
    assert found.prefill_seconds == pytest.approx(2.5 / 3)
    assert found.batch_seconds == pytest.approx(6.5 / 3)
    assert found.step_ms == pytest.approx((200.0, 280.0, 298.0))
    assert found.padding_waste == pytest.approx(50 / 120)
    assert found.idle == pytest.approx(1 - 6.5 / 8)
    assert (found.peak_memory_bytes, found.rank_peak_memory_bytes, found.reserved_memory_bytes) == (7, [7, 5], 11)
    assert (found.busy_percent, found.power_watts, found.tokens_per_joule, found.mbu) == (None, None, None, None)


def test_what_was_not_measured_is_unknown_and_nothing_is_divided_by_nothing():
    meter = TrialMeter([ready(0)], started=10.0)
    meter.add_batch(0, 10.0, 10.0, account(slots=0, padded_slots=0))
    found = meter.result({})
    assert (found.step_ms, found.padding_waste, found.idle) == (None, None, 1.0)
    assert (found.peak_memory_bytes, found.rank_peak_memory_bytes, found.reserved_memory_bytes) == (None, [None], None)
    assert found.seconds == 1e-9


def test_padding_is_that_of_the_batches_that_tell_of_it():
    meter = TrialMeter([ready(0)], started=10.0)
    meter.add_batch(0, 10.0, 11.0, account(slots=100, padded_slots=None))
    assert meter.result({}).padding_waste is None
    meter.add_batch(0, 11.0, 12.0, account(slots=100, padded_slots=30))
    assert meter.result({}).padding_waste == 0.3


def test_more_time_in_hand_than_has_passed_is_no_idleness_below_nothing():
    meter = TrialMeter([ready(0)], started=10.0)
    meter.add_batch(0, 9.0, 11.0, account())
    assert meter.result({}).idle == 0.0


@pytest.mark.parametrize(("percent", "value"), [(0, 1.0), (25, 2.0), (50, 3.0), (90, 7.8), (99, 9.78), (100, 10.0)])
def test_a_percentile_lies_between_its_neighbours(percent, value):
    assert percentile([1.0, 2.0, 3.0, 4.5, 10.0], percent) == pytest.approx(value)
    assert percentile([7.0], percent) == 7.0


def measured(*samples, ranks: int = 1) -> TrialMeter:
    meter = TrialMeter([ready(number) for number in range(ranks)], started=0.0)
    for number in range(ranks):
        meter.add_batch(number, 0.0, 4.0, account())
    for at, figures in samples:
        meter.add_samples(at, figures)
    return meter


def test_gpu_figures_are_means_over_time_and_then_over_gpus():
    found = measured(
        (1.0, [sample(0, busy_percent=10.0, dram_percent=5.0, tensor_percent=1.0)]),
        (2.0, [sample(0, busy_percent=30.0, dram_percent=None, tensor_percent=3.0), sample(1, busy_percent=80.0)]),
        ranks=2,
    ).result({})
    assert (found.busy_percent, found.dram_percent, found.tensor_percent) == (50.0, 5.0, 2.0)


def test_power_is_energy_over_the_time_between_the_first_and_the_last_sample():
    joules = [(1.0, 100.0), (2.0, 900.0), (5.0, 1300.0)]
    found = measured(*((at, [sample(0, energy_joules=energy, power_watts=1.0)]) for at, energy in joules)).result({})
    assert found.power_watts == 300.0
    assert found.tokens_per_joule == pytest.approx(8 / 4.0 / 300.0)


@pytest.mark.parametrize("samples", [[(1.0, 100.0)], [(1.0, 100.0), (1.0, 200.0)], [(1.0, None), (2.0, 100.0)]])
def test_where_energy_was_not_counted_over_time_the_power_that_was_drawn_counts(samples):
    drawn = zip(samples, (200.0, 400.0), strict=False)
    given = [(at, [sample(0, energy_joules=energy, power_watts=watts)]) for (at, energy), watts in drawn]
    assert measured(*given).result({}).power_watts == (300.0 if len(given) > 1 else 200.0)


def test_a_gpu_that_tells_neither_makes_the_power_of_all_unknown():
    figures = [sample(0, power_watts=200.0), sample(1, busy_percent=1.0)]
    assert measured((1.0, figures), ranks=2).result({}).power_watts is None
    assert measured((1.0, [sample(0, power_watts=0.0)])).result({}).power_watts is None, "0 W is no figure"


def test_the_figures_are_plain_values():
    assert msgspec.json.encode(measured((1.0, [sample(0, power_watts=5.0)])).result({}))
