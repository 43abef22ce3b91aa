"""By what a run is bound: each verdict with its evidence, and none where the evidence does not speak."""

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.advice.bound import BUSY, LEAST_SAMPLES, MAJORITY, Kind, Verdict, bound
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState
from rankdeck.runner.state import RunState, apply
from rankdeck.runner.state.load import Load
from rankdeck.runner.state.periods import KnobPeriod, share_of_batch
from rankdeck.runner.state.summary import summarise
from rankdeck.runner.sweep.mbu import Reading
from tests.runner.advice.test_advice import GIB, device, running
from tests.runner.state.test_state import ready as cpu_ready

LAUNCHES = {"busy": 98.0, "dram": 21.0, "tensor": 4.0}
READS = {"busy": 99.0, "dram": 82.0, "tensor": 9.0}
COMPUTES = {"busy": 99.0, "dram": 30.0, "tensor": 55.0}
GEFORCE = {"busy": 98.0}
"""A GPU that has no counters of DRAM and tensor cores."""


def load(at: float = 60.0, at_work: int = 2, active: int = 2, **figures: float) -> Load:
    return Load(at, at_work=at_work, active=active, **figures)


def on_gpus(*loads: Load, **changes: object) -> RunState:
    """A run on two GPUs with these samples."""
    return running(2, **{"loads": loads, **changes})


def on_cpu(*loads: Load, ranks: int = 2, **changes: object) -> RunState:
    """The same on a CPU."""
    state = running(ranks, **{"loads": loads, **changes})
    there = tuple(msgspec.structs.replace(rank, ready=limits(rank.rank)) for rank in state.ranks)
    return msgspec.structs.replace(state, ranks=there)


def limits(rank: int, device: str = "cpu") -> protocol.RankReady:
    facts = {"weight_read_bytes": 1, "kv_bytes_per_token": 1, "device_uuid": str(rank)}
    return cpu_ready(
        rank, device=device, bandwidth_bytes_per_second=100.0, matrix_flops_per_second=100.0, parameter_bytes=1, **facts
    )


def measured(state: RunState, mbu: float | None = None, share: float | None = None, **memory: int) -> RunState:
    """With a batch of the present setting on each rank, that came so near to what its device can do at most."""
    period = KnobPeriod(batch_size=state.batch_size, active_ranks=state.active_ranks)
    for rank in range(state.active_ranks):
        read = Reading(100.0 * mbu, 1.0) if mbu is not None else None
        batch = share_of_batch(10, 1.0, read=read, flops=100.0 * share if share is not None else None)
        period = period.with_batch(rank, batch, memory.get("peak"))
    at_limits = tuple(
        msgspec.structs.replace(
            rank,
            ready=limits(rank.rank, rank.ready.device if rank.ready else "cpu"),
            reserved_memory_bytes=memory.get("reserved"),
        )
        for rank in state.ranks
    )
    return msgspec.structs.replace(state, periods=(period,), ranks=at_limits)


def verdict(state: RunState) -> Verdict:
    found = bound(state)
    assert found is not None
    return found


# --- each verdict on GPUs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figures", "text", "cure"),
    [
        (LAUNCHES, "bound by kernel launches: busy 98%, DRAM 21%, tensor 4%", "larger batches cost little"),
        (READS, "bound by memory bandwidth: busy 99%, DRAM 82%, tensor 9%",
         "a larger batch reads the weights less often"),
        (COMPUTES, "bound by compute: busy 99%, DRAM 30%, tensor 55%", ""),
        ({**LAUNCHES, "busy": 61.0}, "bound by the CPU: busy 61%, DRAM 21%, tensor 4%: GPUs wait for their host",
         "larger batches cost little"),
        ({**COMPUTES, "capped": 1.0},
         "bound by the power limit: it lowers the clocks of 100% of the GPUs; busy 99%, DRAM 30%, tensor 55%", ""),
    ],
    ids=["launches", "bandwidth", "compute", "CPU", "power"],
)  # fmt: skip
def test_counters_say_by_what_a_run_is_bound(figures: dict[str, float], text: str, cure: str) -> None:
    found = verdict(on_gpus(*[load(**figures)] * 5))
    assert (found.text, found.cure) == (text, cure)


@pytest.mark.parametrize(
    ("figures", "kind"),
    [
        ({"busy": 98.0, "dram": 59.9, "tensor": 39.9}, "kernel launches"),
        ({"busy": 98.0, "dram": 60.0, "tensor": 39.9}, "memory bandwidth"),
        ({"busy": 98.0, "dram": 60.0, "tensor": 40.0}, "compute"),
        ({"busy": BUSY, "dram": 20.0, "tensor": 4.0}, "kernel launches"),
        ({"busy": BUSY - 0.1, "dram": 20.0, "tensor": 4.0}, "the CPU"),
        ({"busy": 70.0, "dram": 60.0, "tensor": 4.0}, "memory bandwidth"),
        ({**LAUNCHES, "capped": 0.5}, "the power limit"),
        ({**LAUNCHES, "capped": 0.49}, "kernel launches"),
    ],
)
def test_each_bound_of_a_counter_is_held(figures: dict[str, float], kind: Kind) -> None:
    assert verdict(on_gpus(*[load(**figures)] * 5)).kind == kind


@pytest.mark.parametrize(
    ("at_work", "ranks", "evidence"),
    [(1, 2, "1 of 2 ranks without a batch"), (0, 2, "2 of 2 ranks without a batch"), (0, 1, "the rank has no batch")],
)
def test_ranks_without_a_batch_wait_for_work_whatever_the_gpus_do(at_work: int, ranks: int, evidence: str) -> None:
    state = running(ranks, loads=(load(at_work=at_work, active=ranks, **READS),) * 5)
    assert verdict(state).text == f"waiting for work: {evidence}; busy 99%, DRAM 82%, tensor 9%"


def test_some_waiting_is_told_as_one_rank_at_least() -> None:
    lazy = load(at_work=7, active=8, **LAUNCHES)
    state = running(8, loads=(lazy, lazy, lazy, load(at_work=8, active=8, **LAUNCHES)))
    assert verdict(state).evidence.startswith("1 of 8 ranks without a batch")


def test_ranks_that_have_become_active_since_then_do_not_change_the_share_that_waits() -> None:
    state = on_gpus(*[load(at_work=0, active=8, **LAUNCHES)] * 5)
    assert verdict(state).evidence.startswith("2 of 2 ranks without a batch")


def test_slots_without_a_token_are_uneven_lengths() -> None:
    wasteful = {"slots": 100, "padded_slots": 45}
    found = verdict(on_gpus(*[load(**LAUNCHES)] * 5, **wasteful))
    expected = "bound by uneven lengths: 45% of the token slots hold no token; busy 98%, DRAM 21%, tensor 4%"
    assert (found.text, found.cure) == (expected, "a smaller batch size wastes less")
    assert verdict(on_gpus(*[load(**LAUNCHES)] * 5, slots=100, padded_slots=39)).kind == "kernel launches"
    assert verdict(on_gpus(*[load(**READS)] * 5, **wasteful)).kind == "memory bandwidth", "that is at its limit anyway"


def test_full_memory_keeps_the_batch_from_growing() -> None:
    full = (device(memory_used_bytes=77 * GIB),)
    state = measured(on_gpus(*[load(**LAUNCHES)] * 5, devices=full), peak=70 * GIB, reserved=72 * GIB)
    assert verdict(state).text == "bound by memory: memory of GPU 3 is 94% full; busy 98%, DRAM 21%, tensor 4%"
    reading = msgspec.structs.replace(state, loads=(load(**READS),) * 5)
    assert (verdict(reading).kind, verdict(reading).cure) == ("memory bandwidth", "memory of GPU 3 is 94% full")
    kept = measured(state, peak=20 * GIB, reserved=72 * GIB)
    assert verdict(kept).kind == "kernel launches", "torch only keeps what a larger batch once took"
    assert verdict(on_gpus(*[load(**LAUNCHES)] * 5, devices=full)).kind == "kernel launches", "not measured yet"
    flowing = tuple(
        msgspec.structs.replace(rank, ready=msgspec.structs.replace(rank.ready, engine="continuous"))
        for rank in state.ranks
        if rank.ready is not None
    )
    assert verdict(msgspec.structs.replace(state, ranks=flowing)).kind == "kernel launches", "it takes all at once"


def test_a_rank_that_ran_out_of_memory_has_shown_that_it_is_full() -> None:
    state = on_gpus(*[load(**LAUNCHES)] * 5)
    capped = (state.ranks[0], msgspec.structs.replace(state.ranks[1], cap=24))
    evidence = verdict(msgspec.structs.replace(state, ranks=capped)).evidence
    assert evidence == "rank 1 ran out of memory above 24 prompts; busy 98%, DRAM 21%, tensor 4%"


# --- counters that are missing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mbu", "share", "text"),
    [
        (0.7, 0.1, "bound by memory bandwidth: busy 98%, MBU 70%, matrix rate 10%"),
        (0.2, 0.6, "bound by compute: busy 98%, MBU 20%, matrix rate 60%"),
        (0.2, 0.1, "bound by kernel launches: busy 98%, MBU 20%, matrix rate 10%"),
        (None, 0.6, "bound by compute: busy 98%, matrix rate 60%"),
        (0.7, None, "bound by memory bandwidth: busy 98%, MBU 70%"),
        (0.2, None, "no verdict: no DRAM or tensor counter here, no matrix rate of this model; busy 98%, MBU 20%"),
        (None, 0.1, "no verdict: no DRAM or tensor counter here, no MBU of this model; busy 98%, matrix rate 10%"),
        (None, None, "no verdict: no DRAM or tensor counter here, no MBU or matrix rate of this model; busy 98%"),
    ],
)
def test_where_there_are_no_counters_what_was_measured_stands_in_for_them(mbu, share, text) -> None:
    assert verdict(measured(on_gpus(*[load(**GEFORCE)] * 5), mbu, share)).text == text


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        (GEFORCE, "no verdict: no DRAM or tensor counter here, no whole batch of this setting yet; busy 98%"),
        ({"busy": 98.0, "dram": 20.0}, "no verdict: no tensor counter here, no whole batch of this setting yet; "
                                       "busy 98%, DRAM 20%"),
        ({"dram": 20.0, "tensor": 3.0}, "no verdict: no busy counter here; DRAM 20%, tensor 3%"),
        ({}, "no verdict: no busy, DRAM or tensor counter here"),
        ({"cpu": 99.0}, "no verdict: no busy, DRAM or tensor counter here"),
    ],
    ids=["GeForce", "no tensor", "MIG", "no NVML", "a GPU's rank is not bound by its processor's figure"],
)  # fmt: skip
def test_what_is_missing_is_named_and_nothing_is_guessed(figures: dict[str, float], text: str) -> None:
    assert verdict(on_gpus(*[load(**figures)] * 5)).text == text


def test_a_figure_that_a_counter_gives_is_not_missed() -> None:
    no_tensor, no_dram = {"busy": 98.0, "dram": 20.0}, {"busy": 98.0, "tensor": 3.0}
    assert verdict(measured(on_gpus(*[load(**no_tensor)] * 5))).text == (
        "no verdict: no tensor counter here, no matrix rate of this model; busy 98%, DRAM 20%"
    )
    assert verdict(measured(on_gpus(*[load(**no_dram)] * 5))).text == (
        "no verdict: no DRAM counter here, no MBU of this model; busy 98%, tensor 3%"
    )


def test_counters_go_before_what_stands_in_for_them() -> None:
    state = measured(on_gpus(*[load(**LAUNCHES)] * 5), 0.9, 0.9)
    assert verdict(state).text == "bound by kernel launches: busy 98%, DRAM 21%, tensor 4%"
    half = measured(on_gpus(*[load(busy=98.0, dram=20.0)] * 5), 0.9, 0.1)
    assert verdict(half).text == "bound by kernel launches: busy 98%, DRAM 20%, matrix rate 10%"


def test_a_mig_device_that_has_no_busy_may_still_be_seen_to_read_or_compute() -> None:
    assert verdict(on_gpus(*[load(dram=80.0, tensor=3.0)] * 5)).text == "bound by memory bandwidth: DRAM 80%, tensor 3%"
    assert verdict(measured(on_gpus(*[load()] * 5), 0.8, 0.1)).text == (
        "bound by memory bandwidth: MBU 80%, matrix rate 10%"
    )


# --- on a CPU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "mbu", "share", "text"),
    [
        (97.0, 0.7, 0.2, "bound by memory bandwidth: CPU 97%, MBU 70%, matrix rate 20%"),
        (97.0, 0.7, 0.5, "bound by compute: CPU 97%, MBU 70%, matrix rate 50%"),
        (97.0, 0.3, 0.2, "bound by fixed cost per step: CPU 97%, MBU 30%, matrix rate 20%"),
        (40.0, 0.7, 0.5, "bound by the CPU: the ranks get 40% of their cores: other programs use them, "
                         "or threads wait"),
        (97.0, 0.3, None, "no verdict: no matrix rate of this model; CPU 97%, MBU 30%"),
        (97.0, None, None, "no verdict: no MBU or matrix rate of this model; CPU 97%"),
    ],
)  # fmt: skip
def test_on_a_cpu_its_cores_its_bandwidth_and_its_matrix_rate_decide(cpu, mbu, share, text) -> None:
    assert verdict(measured(on_cpu(*[load(cpu=cpu)] * 5), mbu, share)).text == text


def test_on_a_cpu_nothing_is_said_of_steps_before_a_batch_was_measured_nor_without_its_load() -> None:
    assert verdict(on_cpu(*[load(cpu=97.0)] * 5)).text == "no verdict: no whole batch of this setting yet; CPU 97%"
    assert verdict(on_cpu(*[load()] * 5)).text == "no verdict: CPU % is not known"
    assert verdict(on_cpu(*[load(cpu=75.0)] * 5)).kind == "unknown"
    assert verdict(on_cpu(*[load(cpu=74.9)] * 5)).kind == "the CPU"


def test_on_a_cpu_too_ranks_wait_and_lengths_are_uneven() -> None:
    assert verdict(on_cpu(*[load(at_work=0, cpu=1.0)] * 5)).text == (
        "waiting for work: 2 of 2 ranks without a batch; CPU 1%"
    )
    uneven = measured(on_cpu(*[load(cpu=97.0)] * 5, slots=100, padded_slots=60), 0.3, 0.2)
    assert verdict(uneven).kind == "uneven lengths"


# --- when it speaks ---------------------------------------------------------------------------------


def test_a_verdict_needs_several_samples() -> None:
    for count in range(LEAST_SAMPLES):
        assert bound(on_gpus(*[load(**LAUNCHES)] * count)) is None
    assert bound(on_gpus(*[load(**LAUNCHES)] * LEAST_SAMPLES)) is not None


def test_there_is_none_while_paused_in_a_sweep_while_it_stops_and_after_the_end() -> None:
    state = on_gpus(*[load(**LAUNCHES)] * 9)
    sweep = SweepState(plan=SweepPlan(batch_sizes=[1], ranks=[1]), trials=())
    ended = protocol.RunEnded(at=61, status="completed", exit_status=0, summary=summarise(state))
    for why in ({"paused": "asked for"}, {"sweep": sweep}, {"phase": "stopping"}, {"phase": "loading"}):
        assert bound(msgspec.structs.replace(state, **why)) is None
    assert bound(apply(state, ended)) is None
    assert bound(msgspec.structs.replace(state, sweep=msgspec.structs.replace(sweep, settled="over"))) is not None


FIGURES = st.sampled_from([LAUNCHES, READS, COMPUTES, {**LAUNCHES, "busy": 30.0}, {**COMPUTES, "capped": 1.0}])


@given(FIGURES, FIGURES, st.integers(LEAST_SAMPLES, 12), st.data())
def test_a_single_odd_sample_flips_nothing(usual: dict[str, float], odd: dict[str, float], count: int, data) -> None:
    samples = [load(**usual)] * count
    alone = verdict(on_gpus(*samples)).kind
    samples[data.draw(st.integers(0, count - 1))] = load(**odd)
    assert verdict(on_gpus(*samples)).kind == alone


def test_without_a_clear_majority_nothing_alone_is_to_blame() -> None:
    mixed = on_gpus(*[load(**LAUNCHES)] * 5, *[load(**READS)] * 5)
    assert verdict(mixed).text == "bound by several things in turn: busy 98%, DRAM 52%, tensor 6%"
    assert verdict(on_gpus(*[load(**LAUNCHES)] * 6, *[load(**READS)] * 4)).kind == "kernel launches"
    assert MAJORITY == 0.6


PERCENTS = st.none() | st.floats(0, 100)
SHARES = st.none() | st.floats(0, 1)


@given(
    st.lists(
        st.builds(
            Load, at=st.just(60.0), at_work=st.integers(0, 64), active=st.just(64), busy=PERCENTS, dram=PERCENTS,
            tensor=PERCENTS, cpu=PERCENTS, capped=SHARES,
        ),
        max_size=12,
    ),
    SHARES, SHARES, st.booleans(),
)  # fmt: skip
def test_whatever_the_samples_a_verdict_is_one_short_line(loads, mbu, share, gpus) -> None:
    state = on_gpus(*loads) if gpus else on_cpu(*loads)
    found = bound(measured(state, mbu, share))
    assert (found is None) == (len(loads) < LEAST_SAMPLES)
    if found is not None:
        assert found.kind in get_args(Kind)
        assert len(found.text) <= 110
        assert "None" not in found.text
        assert not found.text.endswith((" ", ";", ","))
