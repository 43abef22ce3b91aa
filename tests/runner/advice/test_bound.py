"""What a run is bound by: each verdict with its evidence, and none where the evidence does not speak."""

from itertools import groupby
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.advice.bound import Verdict, bound
from rankdeck.runner.protocol import DeviceSample, ProcessSample
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState
from rankdeck.runner.state import RunState, apply
from rankdeck.runner.state.load import Load, means
from rankdeck.runner.state.periods import KnobPeriod, share_of_batch
from rankdeck.runner.state.summary import summarise
from rankdeck.runner.state.votes import BUSY, LEAST_SAMPLES, MAJORITY, Held, Kind
from rankdeck.runner.sweep.mbu import Reading
from tests.runner.advice.test_advice import GIB, device, running
from tests.runner.state.test_load import at_work
from tests.runner.state.test_state import finished, play
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


def limits(rank: int, device: str = "cpu", dtype: str = "bfloat16") -> protocol.RankReady:
    facts = {"weight_read_bytes": 1, "kv_bytes_per_token": 1, "device_uuid": str(rank), "dtype": dtype}
    return cpu_ready(
        rank, device=device, bandwidth_bytes_per_second=100.0, matrix_flops_per_second=100.0, parameter_bytes=1, **facts
    )


def measured(state: RunState, mbu: float | None = None, share: float | None = None, **more: int) -> RunState:
    """With a batch of the present setting on each rank, that came so near to what its device can do at most."""
    period = KnobPeriod(batch_size=state.batch_size, active_ranks=state.active_ranks)
    for rank in range(state.active_ranks):
        read = Reading(100.0 * mbu, 1.0) if mbu is not None else None
        waste = {"slots": 100, "padded_slots": more.get("padded_slots", 0)}
        batch = share_of_batch(10, 1.0, read=read, flops=100.0 * share if share is not None else None, **waste)
        period = period.with_batch(rank, batch, more.get("peak"))
    at_limits = tuple(
        msgspec.structs.replace(
            rank,
            ready=limits(rank.rank, rank.ready.device if rank.ready else "cpu"),
            reserved_memory_bytes=more.get("reserved"),
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
        ({**LAUNCHES, "busy": 61.0}, "bound by the CPU: busy 61%, DRAM 21%, tensor 4%: GPUs wait for the host",
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


@pytest.mark.parametrize(
    ("at_work", "kind"), [(63, "kernel launches"), (58, "kernel launches"), (57, "waiting for work")]
)
def test_a_few_of_many_ranks_are_always_between_two_batches(at_work: int, kind: Kind) -> None:
    state = running(64, loads=(load(at_work=at_work, active=64, **LAUNCHES),) * 5)
    assert verdict(state).kind == kind


def test_ranks_that_have_become_active_since_then_do_not_change_the_share_that_waits() -> None:
    state = on_gpus(*[load(at_work=0, active=8, **LAUNCHES)] * 5)
    assert verdict(state).evidence.startswith("2 of 2 ranks without a batch")


def test_slots_without_a_token_are_uneven_lengths() -> None:
    state = on_gpus(*[load(**LAUNCHES)] * 5)
    found = verdict(measured(state, padded_slots=45))
    expected = "bound by uneven lengths: 45% of the token slots hold no token; busy 98%, DRAM 21%, tensor 4%"
    assert (found.text, found.cure) == (expected, "a smaller batch size wastes less")
    assert verdict(measured(state, padded_slots=39)).kind == "kernel launches"
    reading = measured(on_gpus(*[load(**READS)] * 5), padded_slots=45)
    assert verdict(reading).kind == "memory bandwidth", "that is at its limit anyway"


def test_lengths_are_those_of_the_present_setting_and_not_of_the_whole_run() -> None:
    wasted_before = {"slots": 1000, "padded_slots": 600}
    state = on_gpus(*[load(**LAUNCHES)] * 5, **wasted_before)
    assert verdict(state).kind == "kernel launches", "nothing is known of the present setting yet"
    assert verdict(measured(state, padded_slots=5)).kind == "kernel launches"


def test_full_memory_keeps_the_batch_from_growing() -> None:
    full = (device(memory_used_bytes=77 * GIB),)
    state = measured(on_gpus(*[load(**LAUNCHES)] * 5, devices=full), peak=70 * GIB, reserved=72 * GIB)
    assert verdict(state).text == "bound by memory: GPU 3's memory is 94% full; busy 98%, DRAM 21%, tensor 4%"
    reading = msgspec.structs.replace(state, loads=(load(**READS),) * 5)
    assert (verdict(reading).kind, verdict(reading).cure) == ("memory bandwidth", "GPU 3's memory is 94% full")
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
        (GEFORCE, "no verdict: no DRAM or tensor counter here, no whole batch at this setting yet; busy 98%"),
        ({"busy": 98.0, "dram": 20.0}, "no verdict: no tensor counter here, no whole batch at this setting yet; "
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


def test_where_a_counter_is_low_what_was_measured_may_be_high_all_the_same_and_is_shown_then() -> None:
    without_tensor_cores = on_gpus(*[load(busy=100.0, dram=20.0, tensor=0.0)] * 5)
    assert verdict(measured(without_tensor_cores, 0.1, 1.1)).text == (
        "bound by compute: busy 100%, DRAM 20%, tensor 0%, matrix rate 110%"
    )
    assert verdict(measured(without_tensor_cores, 0.7, 0.1)).text == (
        "bound by memory bandwidth: busy 100%, DRAM 20%, tensor 0%, MBU 70%"
    )
    assert verdict(measured(on_gpus(*[load(**LAUNCHES)] * 5), 0.49, 0.39)).kind == "kernel launches"


def test_a_low_tensor_counter_says_nothing_of_float32_before_a_batch_was_measured() -> None:
    state = on_gpus(*[load(busy=100.0, dram=20.0, tensor=0.0)] * 5)
    ranks = tuple(
        msgspec.structs.replace(rank, ready=limits(rank.rank, "cuda", dtype="float32")) for rank in state.ranks
    )
    state = msgspec.structs.replace(state, ranks=ranks)
    assert verdict(state).text == (
        "no verdict: float32 may leave out the tensor cores, no whole batch at this setting yet; "
        "busy 100%, DRAM 20%, tensor 0%"
    )
    assert verdict(msgspec.structs.replace(state, loads=(load(**COMPUTES),) * 5)).kind == "compute", "TF32 uses them"


def test_of_the_gpus_that_a_rank_is_spread_over_one_is_at_work_at_a_time() -> None:
    def spread(ranks: int = 1, **figures: float) -> RunState:
        state = running(ranks, loads=(load(at_work=ranks, active=ranks, **figures),) * 5)
        ready = [limits(rank, "cuda") for rank in range(ranks)]
        wide = [msgspec.structs.replace(one, device_uuids=[f"{one.rank}{gpu}" for gpu in range(4)]) for one in ready]
        changed = zip(state.ranks, wide, strict=True)
        return msgspec.structs.replace(
            state, ranks=tuple(msgspec.structs.replace(rank, ready=one) for rank, one in changed)
        )

    reading = spread(busy=24.0, dram=20.0, tensor=2.0)
    assert verdict(reading).text == (
        "bound by memory bandwidth: busy 24%, DRAM 20%, tensor 2%; its 4 GPUs work one at a time"
    )
    assert verdict(spread(busy=24.0, dram=20.0, tensor=11.0)).kind == "compute"
    assert verdict(spread(busy=24.0, dram=5.0, tensor=1.0)).kind == "kernel launches"
    assert verdict(spread(busy=20.0, dram=5.0, tensor=1.0)).kind == "the CPU"
    assert verdict(spread(2, busy=24.0, dram=5.0, tensor=1.0)).evidence.endswith(
        "each rank's 4 GPUs work one at a time"
    )


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
    assert verdict(on_cpu(*[load(cpu=97.0)] * 5)).text == "no verdict: no whole batch at this setting yet; CPU 97%"
    assert verdict(on_cpu(*[load()] * 5)).text == "no verdict: CPU % is unknown"
    assert verdict(on_cpu(*[load(cpu=75.0)] * 5)).kind == "unknown"
    assert verdict(on_cpu(*[load(cpu=74.9)] * 5)).kind == "the CPU"


def test_on_a_cpu_too_ranks_wait_and_lengths_are_uneven() -> None:
    assert verdict(on_cpu(*[load(at_work=0, cpu=1.0)] * 5)).text == (
        "waiting for work: 2 of 2 ranks without a batch; CPU 1%"
    )
    uneven = measured(on_cpu(*[load(cpu=97.0)] * 5), 0.3, 0.2, padded_slots=60)
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


# --- a verdict that is held -------------------------------------------------------------------------

HELD = Held("kernel launches", period=0, load=means([load(**LAUNCHES)] * 5))
TURNED = (KnobPeriod(batch_size=4, active_ranks=2, number=0), KnobPeriod(batch_size=64, active_ranks=2, number=1))


def turned(*loads: Load, held: Held = HELD, **changes: object) -> RunState:
    """A run whose batch size was turned: samples of before are of period 0, those of now of period 1."""
    return on_gpus(*loads, held=held, periods=TURNED, batch_size=64, **changes)


def of(period: int | None, **figures: float) -> Load:
    return msgspec.structs.replace(load(**figures), period=period)


def test_a_verdict_that_is_held_is_told_with_the_present_figures() -> None:
    state = on_gpus(*[load(**READS)] * 8, held=HELD)
    assert verdict(state).text == "bound by kernel launches: busy 99%, DRAM 82%, tensor 9%"


def test_just_after_a_turn_it_is_said_to_be_of_before_the_turn_and_suggests_nothing() -> None:
    for newest in ((), (of(None, **READS),) * 3, (of(1, **READS),) * 3):
        found = verdict(turned(*[of(0, **LAUNCHES)] * 5, *newest))
        assert found.text == "bound by kernel launches before this change: busy 98%, DRAM 21%, tensor 4%"
        assert (found.before, found.cure) == (True, "")


def test_figures_of_the_new_setting_are_shown_as_soon_as_they_say_the_same() -> None:
    found = verdict(turned(*[of(0, **LAUNCHES)] * 5, of(1, busy=97.0, dram=30.0, tensor=5.0)))
    assert (found.text, found.before) == ("bound by kernel launches: busy 97%, DRAM 30%, tensor 5%", False)


def test_before_the_turn_no_measured_batch_of_another_setting_is_shown() -> None:
    state = turned(*[of(0, **GEFORCE)] * 5, held=Held("memory bandwidth", load=means([load(**GEFORCE)])))
    state = msgspec.structs.replace(measured(state, 0.7, 0.1), periods=state.periods)
    assert verdict(state).text == "bound by memory bandwidth before this change: busy 98%"


@pytest.mark.parametrize("kind", ["unknown", "several things in turn", "waiting for work", "uneven lengths", None])
def test_what_says_nothing_of_a_new_setting_is_not_held_over_a_turn(kind: Kind | None) -> None:
    assert bound(turned(*[of(0, **LAUNCHES)] * 5, held=Held(kind))) is None
    assert bound(turned()) is None, "no sample since a pause"


def test_in_a_run_a_turn_neither_silences_it_nor_keeps_the_old_one_for_long() -> None:
    def sampled(state: RunState, at: float, **figures: float) -> RunState:
        devices = [
            DeviceSample(index=0, uuid="0", name="A", **{f"{name}_percent": one for name, one in figures.items()})
        ]
        return apply(state, protocol.Tick(at=at, devices=devices))

    state = at_work(1, dtype="bfloat16")
    texts = []
    for second in range(40):
        at = 11.0 + second
        if second == 12:
            state = apply(state, protocol.BatchSizeChanged(at=at, batch_size=64, auto=False, reason="as asked for"))
        if second == 15:
            state = play(finished(0, 1, at), protocol.BatchStarted(at=at, rank=0, batch=9, rows=64), state=state)
        state = sampled(state, at, **(LAUNCHES if second < 15 else READS))
        found = bound(state)
        texts.append(found.text.partition(":")[0] if found is not None else "")
    assert [text for text, _ in groupby(texts)] == [
        "", "bound by kernel launches", "bound by kernel launches before this change", "bound by memory bandwidth",
    ]  # fmt: skip
    assert texts.index("bound by memory bandwidth") <= 15 + 2 + LEAST_SAMPLES


def test_noise_around_a_bound_does_not_make_it_flip() -> None:
    state = at_work(2, device="cpu", threads=1, cores=2)
    kinds = []
    for second in range(60):
        percent = (72.0, 79.0, 74.0, 77.0, 70.5)[second % 5]
        processes = [ProcessSample(rank=rank, cpu_percent=percent, rss_bytes=1) for rank in (0, 1)]
        state = apply(state, protocol.Tick(at=11.0 + second, processes=processes))
        found = bound(state)
        kinds.append(found.kind if found is not None else None)
    assert len(list(groupby(kinds))) <= 3


def test_settings_that_last_a_few_seconds_are_judged_each_by_its_own_batches() -> None:
    facts = {"weight_read_bytes": 1, "kv_bytes_per_token": 1, "parameter_bytes": 1, "threads": 2, "cores": 2}
    limits = {"bandwidth_bytes_per_second": 1e12, "matrix_flops_per_second": 1e12}
    state, at = at_work(1, device="cpu", **facts, **limits), 11.0
    for batch, size in ((1, 2), (2, 4), (3, 8)):
        for _ in range(3):
            processes = [ProcessSample(rank=0, cpu_percent=198.0, rss_bytes=1)]
            state, at = apply(state, protocol.Tick(at=at, processes=processes)), at + 1
        state = play(
            finished(0, batch, at),
            protocol.BatchSizeChanged(at=at, batch_size=2 * size, auto=False, reason="as asked for"),
            protocol.BatchStarted(at=at, rank=0, batch=batch + 1, rows=2 * size),
            state=state,
        )
    state = apply(state, protocol.Tick(at=at, processes=processes))
    assert verdict(state).text == "bound by fixed cost per step before this change: CPU 99%"


def test_a_sweep_that_settles_and_a_launch_begin_anew() -> None:
    state = on_gpus(*[load(**LAUNCHES)] * 8, held=HELD)
    sweeping = msgspec.structs.replace(state, sweep=SweepState(plan=SweepPlan(batch_sizes=[1], ranks=[1]), trials=()))
    settled = apply(sweeping, protocol.SweepSettled(at=61.0, reason="best"))
    assert (settled.held, bound(settled), len(settled.loads)) == (Held(), None, 8)
    for event in (protocol.RanksLaunched(at=61.0, attempt=2, world_size=2), protocol.RanksReady(at=61.0)):
        assert apply(state, event).held == Held()
