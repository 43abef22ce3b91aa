"""A guess of more rows than were measured: as steep as the cost climbed last, and no cheaper than computing them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.forecast.compute_floor import ComputeFloor, compute_floor
from rankdeck.runner.forecast.cost_model import fit
from rankdeck.runner.forecast.forecast import fitted
from rankdeck.runner.forecast.line_fit import Line, Sample, steeper_beyond
from rankdeck.runner.protocol import RankReady
from rankdeck.runner.state import RankState, RunState
from tests.runner.forecast.test_cost_model import point

SAMPLES = st.lists(
    st.builds(Sample, st.floats(1, 1000), st.floats(1e-3, 10), st.floats(0.1, 10)), min_size=1, max_size=8
)


def ready(rank: int, **facts: object) -> RankReady:
    values: dict[str, object] = {
        "rank": rank, "device": "cpu", "device_name": "EPYC", "dtype": "float32", "engine": "static", "seconds": 1.0,
        "parameters": 100, "parameter_bytes": 400, "weight_read_bytes": 400, "matrix_flops_per_second": 2000.0,
        "threads": 1, "cores": 2,
    }  # fmt: skip
    return RankReady(**{**values, **facts})  # type: ignore[arg-type]


def test_beyond_its_samples_a_line_is_as_steep_as_between_the_last_two() -> None:
    line = steeper_beyond(Line(1.0, 0.5), [Sample(2, 2, 1), Sample(4, 3, 1), Sample(8, 7, 1)])
    assert line.at(4) == 3, "among the samples nothing changes"
    assert line.at(8) == 5
    assert line.at(12) == pytest.approx(5 + 4 * 5 / 8), "a slope of 1, but at most in proportion"
    assert steeper_beyond(Line(6.0, 0.1), [Sample(4, 6, 1), Sample(8, 7, 1)]).at(16) == pytest.approx(6.8 + 8 * 0.25)


def test_two_samples_too_close_to_tell_a_slope_tell_none() -> None:
    assert steeper_beyond(Line(1.0), [Sample(8, 1, 1), Sample(9, 2, 1)]).at(18) == 1
    spaced = [Sample(4, 1, 1), Sample(8, 1.4, 1), Sample(9, 2, 1)]
    assert steeper_beyond(Line(1.0), spaced).at(10) == pytest.approx(1 + 1 / 9), "held against the last one far enough"


@given(SAMPLES, st.floats(0, 10), st.floats(0, 10), st.floats(0, 10), st.floats(0, 3000), st.floats(0, 3000))
def test_a_steeper_line_never_falls_and_climbs_at_most_in_proportion(samples, base, slope, least, x, more) -> None:
    line = Line(base, slope)
    steeper, end = steeper_beyond(line, samples, least), max(one.x for one in samples)
    assert steeper.at(x) <= steeper.at(x + more) * (1 + 1e-9)
    assert steeper.at(x) >= line.at(x) * (1 - 1e-9)
    if x <= end:
        assert steeper.at(x) == line.at(x)
    else:
        assert steeper.at(x) <= line.at(end) * x / end * (1 + 1e-9)


def test_with_one_batch_size_measured_a_larger_batch_costs_at_least_what_its_tokens_take_to_compute() -> None:
    measured = [point(4, prefill=(0.1, 0), step=(0.02, 0), rest=(0, 0))]
    level, floored = fit(measured), fit(measured, ComputeFloor(seconds=0.001, ranks=2))
    assert level is not None
    assert floored is not None
    assert floored.seconds(4, 50, 1) == level.seconds(4, 50, 1)
    more_slots, more_rows = 4 * 20, 4 * 49
    assert floored.seconds(8, 50, 1) == pytest.approx(level.seconds(8, 50, 1) + (more_slots + more_rows) * 0.001)


def test_a_token_takes_its_operations_at_the_matrix_rate_and_less_with_more_threads() -> None:
    floor = compute_floor([ready(0), ready(1)])
    assert floor is not None
    assert floor.at(2) == 2 * 100 / 2000.0
    assert floor.at(1) == 100 / 2000.0, "alone on both cores"
    gpu = compute_floor([ready(rank, device="cuda", threads=None, cores=None) for rank in (0, 1)])
    assert gpu is not None
    assert gpu.at(1) == gpu.at(2) == 0.1
    spread = {"device": "cuda", "threads": None, "cores": None, "device_uuids": ["a", "b"]}
    layer_by_layer, parallel = (compute_floor([ready(0, engine=engine, **spread)]) for engine in ("static", "vllm"))
    assert layer_by_layer is not None
    assert parallel is not None
    assert parallel.seconds == layer_by_layer.seconds / 2, "tensor parallel, both compute"


def test_without_a_matrix_rate_nothing_is_known_of_it_and_another_rank_may_know() -> None:
    unknown = {"matrix_flops_per_second": None}
    assert compute_floor([]) is None
    assert compute_floor([ready(0, **unknown)]) is None
    assert compute_floor([ready(0, parameter_bytes=None), ready(1)]) == compute_floor([ready(0), ready(1)])


def test_the_costs_of_a_run_are_held_against_the_ranks_that_are_ready() -> None:
    costs = (point(4, step=(0.02, 0)),)
    without = RunState(costs=costs, ranks=(RankState(rank=0),))
    with_rate = msgspec.structs.replace(without, ranks=(RankState(rank=0, ready=ready(0, threads=None)),))
    bare, floored = fitted(without), fitted(with_rate)
    assert bare is not None
    assert floored is not None
    assert floored.seconds(8, 50, 1) > bare.seconds(8, 50, 1)
    assert fitted(RunState()) is None
