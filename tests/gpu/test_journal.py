"""From a journal to the lines of its cases."""

import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent, BatchResult, DeviceSample
from rankdeck.runner.protocol.sweep_plan import SweepPlan, Trial, TrialRecord
from tests.gpu import journal


def ready(rank: int, engine: str = "static") -> protocol.RankReady:
    return protocol.RankReady(
        at=5, rank=rank, device="cuda:0", device_name="NVIDIA H200", device_uuid="a", dtype="bfloat16", engine=engine,
        seconds=1, parameters=1, weight_read_bytes=10**9, kv_bytes_per_token=1000,
    )  # fmt: skip


def batch(number: int, rank: int, began: float, ended: float) -> list[AnyEvent]:
    result = BatchResult(
        rows=16, prompt_tokens=160, output_tokens=1600, slots=1760, padded_slots=0, steps=101,
        prefill_seconds=0.1, decode_seconds=9.0, seconds=9.5, peak_memory_bytes=2**30,
        reserved_memory_bytes=(1 + number) * 2**30,
    )  # fmt: skip
    return [
        protocol.BatchStarted(at=began, rank=rank, batch=number, rows=16),
        protocol.BatchFinished(at=ended, rank=rank, batch=number, result=result),
    ]


def ticks(*times: float) -> list[AnyEvent]:
    """300 W and 40 % from 10 s to 40 s, 50 W before and after; the energy counter likewise."""

    def device(at: float) -> DeviceSample:
        at_work = 10 <= at <= 40
        return DeviceSample(
            index=0, uuid="GPU-a", name="NVIDIA H200", busy_percent=90 if at_work else 0, dram_percent=40,
            power_watts=300.0 if at_work else 50.0, energy_joules=300 * at, unavailable={"sm_percent": "not here"},
        )  # fmt: skip

    return [protocol.Tick(at=at, devices=[device(at)]) for at in times]


def in_order(*events: list[AnyEvent]) -> list[AnyEvent]:
    return sorted((event for some in events for event in some), key=lambda event: event.at)


def test_a_setting_that_was_turned_to_is_measured_from_each_rank_s_second_batch_on() -> None:
    turned = [protocol.BatchSizeChanged(at=9, batch_size=16, auto=False, reason="")]
    work = [batch(3 * number + rank, rank, at, at + 10) for rank in (0, 1) for number, at in enumerate((0, 10, 20, 30))]
    told = journal.told(in_order([ready(0), ready(1)], turned, *work, ticks(5, 12, 22, 32, 45)))
    stretch = journal.of_setting(told, ranks=2, batch_size=16, copied=1e12)
    assert stretch is not None
    assert (stretch.first, stretch.last, stretch.result.batches) == (20, 40, 4)
    assert stretch.result.tokens_per_second == 4 * 1600 / 20
    assert journal.of_setting(told, ranks=2, batch_size=64, copied=1e12) is None
    assert journal.of_setting(told, ranks=3, batch_size=16, copied=1e12) is None


def test_only_whole_batches_between_two_times_count_and_the_first_of_them_does_not() -> None:
    work = [batch(number, 0, 10 * number, 10 * number + 10) for number in range(6)]
    told = journal.told(in_order([ready(0)], *work))
    stretch = journal.between(told, 16, 5, 55, copied=1e12)
    assert stretch is not None
    assert (stretch.first, stretch.last, stretch.result.batches) == (20, 50, 3)
    assert journal.between(told, 16, 5, 25, copied=1e12) is None


def test_a_case_has_the_gpu_s_figures_of_its_own_time_by_nvml_gpm_and_nvidia_smi() -> None:
    told = journal.told(in_order([ready(0)], batch(1, 0, 0, 10), batch(2, 0, 10, 20), ticks(5, 12, 18, 25, 45)))
    stretch = journal.between(told, 16, 0, 20, copied=1e12)
    assert stretch is not None
    line = journal.figures(told, stretch, [(15.0, {"power_watts": 320.0}), (99.0, {"power_watts": 1.0})])
    assert line["nvml"] == {"busy_percent": 90, "power_watts": 300, "samples": 2}
    assert line["gpm"] == {"dram_percent": 40, "samples": 2}
    assert line["unavailable"] == {"sm_percent": "not here"}
    assert line["nvidia_smi"] == {"power_watts": 320, "samples": 1, "tokens_per_joule": 0.5}
    assert line["reserved_memory_bytes"] == 3 * 2**30
    assert line["tokens_per_joule"] == pytest.approx(160 / 300)
    assert line["bandwidth_source"] == "data sheet of NVIDIA H200"
    assert 0 < line["mbu"] < 1


def test_a_continuous_engine_has_no_bandwidth_as_nobody_knows_what_its_steps_read() -> None:
    told = journal.told(in_order([ready(0, "continuous")], batch(1, 0, 0, 10), batch(2, 0, 10, 20)))
    stretch = journal.between(told, 16, 0, 20, copied=1e12)
    assert stretch is not None
    assert journal.figures(told, stretch, [])["mbu"] is None


def test_a_sweep_s_trials_are_cases_from_the_end_of_their_warm_up_on() -> None:
    measured = journal.between(journal.told(in_order([ready(0)], batch(1, 0, 0, 1), batch(2, 0, 1, 2))), 4, 0, 2, 1e12)
    assert measured is not None
    trials = [Trial(number=number, repeat=1, active_ranks=1, batch_size=4 * number) for number in (1, 2)]
    results = [
        protocol.TrialFinished(
            at=8, record=TrialRecord(trial=trials[0], outcome="measured", result=measured.result)
        ),
        protocol.TrialFinished(at=9, record=TrialRecord(trial=trials[1], outcome="out_of_memory")),
    ]  # fmt: skip
    plan = SweepPlan(batch_sizes=[4, 8], ranks=[1])
    started = protocol.SweepStarted(at=1, plan=plan, trials=trials, bandwidth_source="a copy")
    told = journal.told([ready(0), started, protocol.TrialWarm(at=3, trial=trials[0]), *results])
    stretch = told.trials[0].stretch
    assert stretch is not None
    assert (stretch.rows, stretch.first, stretch.last) == (4, 3, 8)
    assert told.source == "a copy"
    assert told.trials[1].stretch is None
    assert [trial.event.record.outcome for trial in told.trials] == ["measured", "out_of_memory"]


def test_a_journal_that_is_cut_off_in_a_batch_tells_what_came_before() -> None:
    told = journal.told(in_order([ready(0)], batch(1, 0, 0, 10), batch(2, 0, 10, 20))[:-1])
    assert [one.ended for one in told.batches] == [10]
