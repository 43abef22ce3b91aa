"""The figures of real GPUs: NVML's and GPM's in a run, and what a sweep makes of them."""

from rankdeck.runner import run_directory
from rankdeck.runner.machine.gpu import METRIC_FIELDS
from rankdeck.runner.machine.telemetry import Telemetry
from tests.gpu.marked.flights import ON_A_GPU, figures

pytestmark = ON_A_GPU

WITH_GPM = ("H100", "H200", "H800", "H20", "GH200", "B100", "B200", "B300", "GB200", "GB300")


def test_every_figure_is_there_and_makes_sense_or_says_why_not():
    watching = Telemetry.open()
    try:
        samples = [*watching.sample_devices(), *watching.sample_devices()]
        assert samples, watching.reason
        for sample in samples:
            for name in METRIC_FIELDS:
                assert (getattr(sample, name) is None) == (name in sample.unavailable), f"{name}: {sample}"
            if sample.memory_used_bytes is not None:  # 0 of an idle GPU: what the driver reserves is not counted
                assert sample.memory_total_bytes > sample.memory_used_bytes >= 0
            assert 0 <= (sample.busy_percent or 0) <= 100
            assert 0 < (sample.power_watts or 100) < 2500
            assert 0 < (sample.temperature_celsius or 40) < 120
    finally:
        watching.close()


def samples_of(sweep):
    assert sweep.wait() == 0, sweep.said
    return sweep.samples


def test_busy_samples_arrive_while_a_run_is_at_work(flights):
    assert max(figures(samples_of(flights["sweep"]), "busy_percent")) > 0


def test_memory_grows_while_a_model_is_loaded(flights):
    used = figures(samples_of(flights["sweep"]), "memory_used_bytes")
    assert max(used) > min(used)


def test_the_energy_counter_never_falls(flights):
    energy = figures(samples_of(flights["sweep"]), "energy_joules")
    assert energy == sorted(energy)


def test_gpm_figures_arrive_where_the_gpu_has_them_and_have_a_reason_elsewhere(flights):
    samples = samples_of(flights["sweep"])
    assert samples, flights["sweep"].said
    last = samples[-1]
    found = [sample.dram_percent for sample in samples if sample.dram_percent is not None]
    words = last.name.replace("-", " ").split()
    if any(name in words for name in WITH_GPM) and "MIG" not in last.name:
        assert found, last.unavailable
    assert found or last.unavailable["dram_percent"]
    assert all(0 <= value <= 100 for value in found)


def results_of(sweep):
    assert sweep.wait() == 0, sweep.said
    summary = run_directory.read_run_file(sweep.started.directory).sweep
    assert summary is not None
    assert summary.measured == 2
    return [record.result for record in summary.records]


def test_a_sweep_has_step_times_memory_and_bandwidth(flights):
    for result in results_of(flights["sweep"]):
        assert result.step_ms is not None
        assert result.peak_memory_bytes > 0
        assert result.reserved_memory_bytes >= result.peak_memory_bytes
        assert 0 < result.mbu < 1.2


def test_a_sweep_says_how_busy_the_gpu_was(flights):
    results = results_of(flights["sweep"])
    figures(samples_of(flights["sweep"]), "busy_percent")
    assert all(result.busy_percent > 0 for result in results)


def test_a_sweep_has_tokens_per_joule(flights):
    results = results_of(flights["sweep"])
    figures(samples_of(flights["sweep"]), "power_watts")
    assert all(result.tokens_per_joule > 0 for result in results)
