"""Which engine `--engine auto` takes by earlier runs: which of them count, what is compared, and what is said of it."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.forecast.engine_record import (
    LEAST_BATCHES,
    LEAST_LEAD,
    LEAST_SECONDS,
    SETTINGS,
    Conditions,
    Earlier,
    Job,
    conditions,
    engine_record,
    faster,
)
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.engines import EngineHint, EngineRecord
from rankdeck.runner.state import RunState
from tests.runner.state.test_state import output, play, ready

FILES = {"config.json": "c0", "model.safetensors": "f0"}
MACHINE: dict[str, Any] = {"gpus": [], "cpu": "EPYC", "cores": 2, "versions": {"rankdeck": "1", "torch": "2"}}


def here(*, files: dict[str, str] | None = None, machine: dict[str, Any] | None = None, **settings: Any) -> Conditions:
    config = RunConfig(**{"prompts": "p", "device": "cpu", "ranks": 2, **settings})
    return conditions(config, FILES if files is None else files, **{**MACHINE, **(machine or {})})


JOB = Job(here(), prompt_bytes=100.0, new_tokens=50)


def record(engine: str, rate: float, **changes: Any) -> EngineRecord:
    values = {"batch_size": 50, "batches": 8, "seconds": 60.0, "prompt_bytes": 100.0}
    values |= {"prompt_tokens": 20.0, "output_tokens": 40.0}
    return EngineRecord(engine=engine, tokens_per_second=rate, **{**values, **changes})


def earlier(
    engine: str,
    rate: float,
    at: float = 0.0,
    *,
    status: str = "completed",
    job: Job = JOB,
    name: str = "",
    **changes: Any,
) -> Earlier:
    return Earlier(name or f"{engine}-{at:g}", at, status, job, record(engine, rate, **changes))


STATIC, CONTINUOUS = earlier("static", 314.0, 1.0, name="one"), earlier("continuous", 412.0, 2.0, name="other")


# --- the choice -----------------------------------------------------------------------------------


def test_the_faster_of_two_runs_like_the_job_is_taken_and_both_are_named_with_their_figures():
    assert faster(JOB, [STATIC, CONTINUOUS]) == EngineHint(
        engine="continuous",
        why="1.31 times static's tok/s in earlier runs here with this model (other: 412, one: 314 tok/s a rank)",
        lead=1.31,
        over="static",
    )
    assert faster(JOB, [earlier("static", 9.0, name="s"), earlier("continuous", 4.5, name="c")]) == EngineHint(
        engine="static",
        why="2.00 times continuous's tok/s in earlier runs here with this model (s: 9.00, c: 4.50 tok/s a rank)",
        lead=2.0,
        over="continuous",
    )


def test_of_three_engines_the_fastest_is_taken_if_it_is_well_ahead_of_the_second():
    static = earlier("static", 1000.0, 1.0, name="a")
    continuous, vllm = earlier("continuous", 600.0, 2.0, name="b"), earlier("vllm", 800.0, 3.0, name="c")
    found = faster(JOB, [static, continuous, vllm])
    assert (found.engine, found.lead, found.over) == ("static", 1.25, "vllm"), "however old its run is"
    near = earlier("vllm", 950.0, 3.0, name="c")
    assert faster(JOB, [static, continuous, near]) is None
    two = [earlier("static", 100.0, 1.0), earlier("continuous", 200.0, 2.0), earlier("vllm", 210.0, 3.0)]
    found = faster(JOB, two)
    assert (found.engine, found.lead, found.over) == ("vllm", 2.1, "static"), "two are far ahead of what is usual"


def test_an_engine_that_this_run_cannot_have_is_not_taken_however_fast_it_was():
    vllm = earlier("vllm", 900.0, 3.0, name="third")
    found = faster(JOB, [STATIC, CONTINUOUS, vllm])
    assert (found.engine, found.lead, found.over) == ("vllm", 2.87, "static")
    assert faster(JOB, [STATIC, CONTINUOUS, vllm], {"static", "continuous"}).engine == "continuous"
    assert faster(JOB, [STATIC, vllm], {"static", "continuous"}) is None


def test_a_run_that_was_stopped_counts_as_one_that_was_completed():
    assert faster(JOB, [STATIC, earlier("continuous", 412.0, status="stopped")]).engine == "continuous"


def test_of_several_runs_the_newest_of_each_engine_are_compared():
    runs = [earlier("continuous", 100.0, 1.0), earlier("static", 200.0, 2.0)]
    assert faster(JOB, runs).engine == "static"
    assert faster(JOB, [*runs, earlier("continuous", 300.0, 3.0)]).engine == "continuous"
    assert faster(JOB, [*runs, earlier("continuous", 300.0, 0.5)]).engine == "static"


def test_engines_that_cannot_be_told_apart_are_not_told_apart_by_older_runs():
    level = [earlier("static", 100.0, 3.0), earlier("continuous", 104.9, 4.0)]
    assert faster(JOB, level) is None
    assert faster(JOB, [*level, earlier("static", 10.0, 1.0)]) is None
    assert faster(JOB, [earlier("static", 100.0), earlier("continuous", 100.0 * LEAST_LEAD)]).engine == "continuous"


def test_one_engine_alone_tells_nothing():
    assert faster(JOB, []) is None
    assert faster(JOB, [CONTINUOUS, earlier("continuous", 1.0)]) is None


def test_a_job_that_samples_has_the_engine_that_gives_its_answers_again():
    sampling = Job(here(do_sample=True), 100.0, 50, samples=True)
    assert faster(sampling, [STATIC._replace(job=sampling), CONTINUOUS._replace(job=sampling)]) is None


# --- which runs count -----------------------------------------------------------------------------

ELSEWHERE = {
    "other weights": here(files={**FILES, "model.safetensors": "f1"}),
    "another processor": here(machine={"cpu": "Xeon"}),
    "more cores": here(machine={"cores": 4}),
    "more ranks on these cores": here(ranks=4),
    "a newer torch": here(machine={"versions": {"rankdeck": "1", "torch": "3"}}),
    "another rankdeck": here(machine={"versions": {"rankdeck": "2", "torch": "2"}}),
    "a GPU": here(device="cuda", machine={"gpus": ["H100"]}),
    "another dtype": here(dtype="bfloat16"),
    "quantised": here(quantization="int8"),
    "fixed length": here(ignore_eos=True),
    "in the file's order": here(order="input"),
    "by generate": here(decoding="generate"),
    "a batch size that was asked for": here(batch_size=4),
}


@pytest.mark.parametrize("there", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_runs_under_other_conditions_do_not_count(there: Conditions):
    other = JOB._replace(conditions=there)
    assert faster(JOB, [STATIC, CONTINUOUS._replace(job=other)]) is None
    assert faster(JOB, [STATIC._replace(job=other), CONTINUOUS._replace(job=other)]) is None
    known = bool(there.devices)
    assert (faster(other, [STATIC._replace(job=other), CONTINUOUS._replace(job=other)]) is not None) == known


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "failed"},
        {"status": "running"},
        {"batches": LEAST_BATCHES - 1},
        {"seconds": LEAST_SECONDS - 0.1},
        {"job": JOB._replace(prompt_bytes=126.0)},
        {"job": JOB._replace(prompt_bytes=79.0)},
        {"job": JOB._replace(new_tokens=63)},
        {"prompt_tokens": 26.0},
        {"output_tokens": 31.0},
    ],
    ids=str,
)
def test_failed_runs_too_little_work_and_unlike_lengths_do_not_count(changed: dict[str, Any]):
    assert faster(JOB, [STATIC, earlier("continuous", 412.0, **changed)]) is None


def test_lengths_within_a_quarter_are_alike():
    runs = [STATIC, earlier("continuous", 412.0, prompt_tokens=25.0, output_tokens=32.0)]
    assert faster(JOB, runs) is not None
    assert faster(JOB._replace(prompt_bytes=125.0, new_tokens=62), runs) is not None


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf])
def test_a_rate_that_none_can_be_does_not_count(rate: float):
    assert faster(JOB, [STATIC, earlier("continuous", rate)]) is None


def test_a_newer_run_that_does_not_count_is_passed_over():
    runs = [STATIC, CONTINUOUS, earlier("continuous", 1.0, 9.0, status="failed"), earlier("unknown", 9e9, 9.0)]
    assert faster(JOB, runs) == faster(JOB, [STATIC, CONTINUOUS])
    unlike = earlier("continuous", 1.0, 9.0, output_tokens=400.0)
    assert faster(JOB, [*runs, unlike]) == faster(JOB, [STATIC, CONTINUOUS])


def test_where_the_device_is_not_known_nothing_is():
    for unknown in (here(machine={"cpu": ""}), here(device="cuda")):
        job = JOB._replace(conditions=unknown)
        assert faster(job, [STATIC._replace(job=job), CONTINUOUS._replace(job=job)]) is None


def test_on_gpus_it_matters_which_they_are_and_how_many_ranks_share_one_not_how_many_there_are():
    def gpus(ranks: int, *names: str) -> Conditions:
        return here(device="cuda", ranks=ranks, machine={"gpus": list(names)})

    one = gpus(1, "H100")
    assert one == gpus(4, "H100", "H100", "H100", "H100")
    assert one == here(device="cuda", ranks=1, machine={"gpus": ["H100"], "cores": 64, "cpu": "Xeon"})
    assert gpus(3, "H100", "H100") == gpus(4, "H100", "H100") != one
    assert gpus(1, "L4") != one


def test_a_model_is_known_by_its_files_wherever_they_lie_and_a_hub_model_by_its_name():
    assert here(model="/a") == here(model="/b")
    assert here(files={}, model="org/a") != here(files={}, model="org/b")
    assert here(files={}, model="org/a") == here(files={}, model="org/a")


def test_every_setting_that_counts_is_one():
    assert set(SETTINGS) <= set(RunConfig.__struct_fields__)


rates = st.floats(0.01, 1e6)
runs_of_any_kind = st.lists(
    st.builds(
        lambda engine, rate, at, status, tokens, batches: earlier(
            engine, rate, at, status=status, output_tokens=tokens, batches=batches, name=f"{engine}{rate}{at}"
        ),
        st.sampled_from(["static", "continuous", "unknown"]),
        rates,
        st.integers(0, 5).map(float),
        st.sampled_from(["completed", "stopped", "failed", "running"]),
        st.sampled_from([40.0, 45.0, 400.0]),
        st.integers(0, 4),
    ),
    max_size=8,
    unique_by=lambda run: run.name,
)


@given(runs_of_any_kind, st.randoms())
def test_whatever_the_records_only_an_engine_that_led_in_one_is_taken_and_their_order_is_all_the_same(runs, random):
    found = faster(JOB, runs)
    mixed = list(runs)
    random.shuffle(mixed)
    assert faster(JOB, mixed) == found
    if found is None:
        return
    names = {run.name: run for run in runs if run.name in found.why}
    best = {}
    for run in names.values():
        best[run.record.engine] = max(best.get(run.record.engine, 0.0), run.record.tokens_per_second)
    assert set(best) == {"static", "continuous"}
    assert best[found.engine] == max(best.values())
    assert {run.status for run in names.values() if run.name.startswith(found.engine)} <= {"completed", "stopped"}


@given(rates, rates)
def test_with_the_figures_exchanged_the_other_engine_is_taken(one: float, other: float):
    there = faster(JOB, [earlier("static", one), earlier("continuous", other)])
    back = faster(JOB, [earlier("static", other), earlier("continuous", one)])
    assert (there is None) == (back is None)
    if there is not None:
        assert {there.engine, back.engine} == {"static", "continuous"}
        assert there.engine == ("static" if one > other else "continuous")


# --- what a run leaves ----------------------------------------------------------------------------


def batch(number: int, at: float, seconds: float, rank: int = 0, rows: int = 2, tokens: int = 20) -> list[Any]:
    result = protocol.BatchResult(
        rows=rows, prompt_tokens=3 * rows, output_tokens=tokens, slots=50, padded_slots=0, steps=10,
        prefill_seconds=0.1, decode_seconds=0.9, seconds=seconds,
    )  # fmt: skip
    records = [output(10 * number + row, tokens // rows, rank=rank, at=at + seconds) for row in range(rows)]
    finished = protocol.BatchFinished(at=at + seconds, rank=rank, batch=number, result=result)
    return [protocol.BatchStarted(at=at, rank=rank, batch=number, rows=rows), *records, finished]


def run(*events: Any, ranks: int = 1, engines: tuple[str, ...] = ("static",), **settings: Any) -> RunState:
    config = RunConfig(**{"prompts": "p", "ranks": ranks, "batch_size": 2, **settings})
    return play(
        protocol.RunStarted(name="n", directory="/d", config=config, prompts=100),
        protocol.RanksLaunched(attempt=1, world_size=ranks),
        *(ready(rank, engine=engines[rank % len(engines)]) for rank in range(ranks)),
        protocol.RanksReady(at=1.0),
        protocol.BatchSizeChanged(at=1.0, batch_size=2, auto=False, reason=""),
        *events,
    )


def test_a_run_leaves_its_engines_rate_at_the_batch_size_that_was_fastest():
    state = run(
        *batch(1, 1.0, 10.0),
        *batch(2, 11.0, 10.0),
        protocol.BatchSizeChanged(at=21.0, batch_size=4, auto=False, reason=""),
        *batch(3, 21.0, 8.0, rows=4, tokens=40),
        *batch(4, 29.0, 8.0, rows=4, tokens=40),
        protocol.BatchSizeChanged(at=37.0, batch_size=8, auto=False, reason=""),
        *batch(5, 37.0, 9.0, rows=8, tokens=80),
    )
    assert engine_record(state, 77.0) == EngineRecord(
        engine="static", batch_size=4, tokens_per_second=5.0, batches=2, seconds=16.0,
        prompt_tokens=3.0, prompt_bytes=77.0, output_tokens=10.0,
    ), "batch size 8 was faster, in one batch of 9 s"  # fmt: skip


def test_the_rate_is_that_of_one_rank_with_all_of_them_at_work():
    at_work = run(*batch(1, 1.0, 10.0), *batch(2, 1.0, 20.0, rank=1), ranks=2)
    found = engine_record(at_work, 1.0)
    assert (found.tokens_per_second, found.batches, found.seconds) == ((2.0 + 1.0) / 2, 2, 15.0)
    half = run(
        protocol.ActiveRanksChanged(at=1.0, active_ranks=1), *batch(1, 1.0, 10.0), *batch(2, 11.0, 10.0), ranks=2
    )
    assert engine_record(half, 1.0) is None


def continuous_run(last_rows: float) -> RunState:
    """Two accounts of 10 s, and then the last rows for so many seconds, in which few tokens come."""
    result = msgspec.structs.replace(batch(1, 0.0, 1.0)[-1].result, rows=1, output_tokens=60)
    return run(
        protocol.BatchStarted(at=1.0, rank=0, batch=1, rows=9),
        *(protocol.AccountClosed(at=at, rank=0, batch=1, result=result) for at in (11.0, 21.0)),
        output(1, 60, at=21.0 + last_rows),
        protocol.BatchFinished(at=21.0 + last_rows, rank=0, batch=1, result=result),
        engines=("continuous",),
    )


def test_a_continuous_ranks_accounts_count_as_batches_do():
    found = engine_record(continuous_run(last_rows=2.0), 1.0)
    assert (found.engine, found.tokens_per_second, found.batches, found.seconds) == ("continuous", 6.0, 2, 20.0)


def test_a_continuous_run_whose_last_rows_took_long_leaves_nothing_since_its_accounts_would_flatter_it():
    assert engine_record(continuous_run(last_rows=2.3), 1.0) is None


def test_too_little_work_leaves_nothing_nor_do_ranks_with_two_engines_or_none():
    assert engine_record(RunState(), 1.0) is None
    assert engine_record(run(), 1.0) is None
    assert engine_record(run(*batch(1, 1.0, 60.0)), 1.0) is None
    assert engine_record(run(*batch(1, 1.0, 2.0), *batch(2, 3.0, 2.5)), 1.0) is None
    work = [*batch(1, 1.0, 10.0), *batch(2, 1.0, 10.0, rank=1)]
    assert engine_record(run(*work, ranks=2), 1.0) is not None
    assert engine_record(run(*work, ranks=2, engines=("static", "continuous")), 1.0) is None
    assert engine_record(run(*work, protocol.RanksLaunched(attempt=2, world_size=2), ranks=2), 1.0) is None


def test_trials_of_a_sweep_do_not_count_nor_does_a_run_that_was_taken_up_perhaps_elsewhere():
    work = [*batch(1, 1.0, 10.0), *batch(2, 11.0, 10.0)]
    state = run(*work)
    trials = [msgspec.structs.replace(period, trial=True) for period in state.periods]
    assert engine_record(msgspec.structs.replace(state, periods=tuple(trials)), 1.0) is None
    counts = {"completed": 4, "failed": 0, "prompt_tokens": 12, "output_tokens": 40}
    again = play(
        protocol.RunTakenUp(at=100.0, config=RunConfig(prompts="p", batch_size=2, dtype="bfloat16"), **counts),
        protocol.RanksLaunched(at=100.0, attempt=2, world_size=1),
        ready(0),
        protocol.RanksReady(at=101.0),
        state=state,
    )
    more = play(*batch(3, 101.0, 20.0), *batch(4, 121.0, 20.0), state=again)
    assert engine_record(more, 1.0) is None
