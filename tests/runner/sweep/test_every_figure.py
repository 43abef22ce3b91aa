"""Every figure of a trial lands in its own column of the cell: means, but for memory, of which the largest counts."""

import msgspec
import pytest

from rankdeck.runner.protocol.sweep_plan import TrialRecord
from rankdeck.runner.sweep.cells import Cell, _cell, best, rate
from rankdeck.runner.sweep.intervals import estimate
from tests.scripted_sweep import SweepScript, plan

MEANS = (
    "total_tokens_per_second", "prefill_seconds", "batch_seconds", "padding_waste", "idle", "busy_percent",
    "dram_percent", "tensor_percent", "power_watts", "tokens_per_joule", "mbu",
)  # fmt: skip
LARGEST = ("peak_memory_bytes", "reserved_memory_bytes")


@pytest.fixture
def records() -> list[TrialRecord]:
    sweep = SweepScript(plan((4,), (1,))).begun().over(3).settled().state.sweep
    assert sweep is not None
    return [record for record in sweep.records if record.result is not None][:2]


def with_figures(record: TrialRecord, **figures: object) -> TrialRecord:
    assert record.result is not None
    return msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, **figures))


def test_each_figure_is_the_mean_of_the_same_figure_and_memory_the_largest(records: list[TrialRecord]) -> None:
    one, other = (
        with_figures(
            record,
            tokens_per_second=100.0 + 20 * number,
            rank_tokens_per_second=[10.0 + 10 * number, 20.0 + 10 * number],
            step_ms=(1.0 + number, 2.0 + number, 3.0 + number),
            **{name: 10.0 * (place + 1) + number for place, name in enumerate(MEANS)},
            **{name: 1000 * (place + 1) - number for place, name in enumerate(LARGEST)},
        )
        for number, record in enumerate(records)
    )
    cell = _cell(1, 4, [one, other])
    assert (cell.active_ranks, cell.batch_size, cell.outcome, cell.reason) == (1, 4, "measured", None)
    assert cell.tokens_per_second == estimate([100.0, 120.0])
    assert {name: getattr(cell, name) for name in MEANS} == {
        name: 10.0 * (place + 1) + 0.5 for place, name in enumerate(MEANS)
    }
    assert (cell.peak_memory_bytes, cell.reserved_memory_bytes) == (1000, 2000)
    assert cell.rank_tokens_per_second == 20.0
    assert cell.step_ms == (1.5, 2.5, 3.5)
    assert rate(cell) == 110.0


def test_a_figure_that_a_trial_lacks_is_the_mean_of_the_others_and_without_any_there_is_none(
    records: list[TrialRecord],
) -> None:
    one = with_figures(records[0], power_watts=300.0, step_ms=None, peak_memory_bytes=None, mbu=None)
    other = with_figures(records[1], power_watts=None, step_ms=(1.0, 2.0, 3.0), peak_memory_bytes=5, mbu=None)
    cell = _cell(1, 4, [one, other])
    assert (cell.power_watts, cell.step_ms, cell.peak_memory_bytes, cell.mbu) == (300.0, (1.0, 2.0, 3.0), 5, None)


def test_a_setting_without_a_figure_has_the_reason_of_the_trial_that_was_run(records: list[TrialRecord]) -> None:
    skipped = msgspec.structs.replace(records[0], result=None, outcome="skipped", reason="later")
    wall = msgspec.structs.replace(records[0], result=None, outcome="out_of_memory", reason="too large")
    for tried, outcome, reason in (
        ([skipped, wall], "out_of_memory", "too large"),
        ([skipped], "skipped", "later"),
        ([], None, None),
    ):
        cell = _cell(2, 8, tried)
        assert cell == Cell(active_ranks=2, batch_size=8, outcome=outcome, reason=reason)  # type: ignore[arg-type]
        assert (rate(cell), cell.setting, best([cell])) == (0.0, (2, 8), None)
