"""How heavily a run loads its devices: whose samples count, what is missing, and which samples a period keeps."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent, DeviceSample, ProcessSample, StepsInFlight
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import HistoryPoint, RunState
from rankdeck.runner.state.load import Load, LoadMeans, Mean, clamped_cpu, known_mean, known_sum, means, recent
from rankdeck.runner.state.ticks import HISTORY_POINTS, LOADS, RECENT_SECONDS
from tests.runner.state.test_state import finished, output, play, ready


def gpu(number: int, **figures: object) -> DeviceSample:
    return DeviceSample(index=number, uuid=f"GPU-{number}", name="A", **figures)  # type: ignore[arg-type]


def at_work(ranks: int = 2, *, device: str = "cuda", active: int | None = None, **facts: object) -> RunState:
    """Ranks on a GPU each, or on a CPU, ready at 10 s, each active one with a batch in hand."""
    config = RunConfig(prompts="p.txt", ranks=ranks, batch_size=2, max_new_tokens=10)
    active = ranks if active is None else active
    return play(
        protocol.RunStarted(at=0.0, name="n", directory="/d", config=config, prompts=1000),
        protocol.RanksLaunched(at=1.0, attempt=1, world_size=ranks),
        *(ready(rank, device=device, device_uuid=str(rank), **facts) for rank in range(ranks)),
        protocol.RanksReady(at=10.0),
        protocol.ActiveRanksChanged(at=10.0, active_ranks=active),
        *(protocol.BatchStarted(at=10.0, rank=rank, batch=rank + 1, rows=2) for rank in range(active)),
    )


def newest(state: RunState, at: float = 11.0, *devices: DeviceSample, cpu: dict[int, float] | None = None) -> Load:
    """The load of one more sample."""
    processes = [ProcessSample(rank=rank, cpu_percent=percent, rss_bytes=1) for rank, percent in (cpu or {}).items()]
    return play(protocol.Tick(at=at, devices=list(devices), processes=processes), state=state).loads[-1]


# --- one sample -------------------------------------------------------------------------------------


def test_a_load_is_the_mean_over_the_gpus_and_the_sum_of_their_watts() -> None:
    load = newest(
        at_work(),
        11.0,
        gpu(0, busy_percent=90.0, dram_percent=20.0, tensor_percent=4.0, power_watts=300.0),
        gpu(1, busy_percent=70.0, dram_percent=40.0, tensor_percent=8.0, power_watts=500.0),
    )
    assert (load.at, load.at_work, load.active) == (11.0, 2, 2)
    assert (load.busy, load.dram, load.tensor, load.watts) == (80.0, 30.0, 6.0, 800.0)


def test_a_gpu_that_no_active_rank_is_on_counts_for_nothing_nor_does_a_lost_one() -> None:
    busy, lazy = gpu(0, busy_percent=90.0, power_watts=300.0), gpu(1, busy_percent=0.0, power_watts=60.0)
    one = newest(at_work(active=1), 11.0, busy, lazy, gpu(2, busy_percent=5.0))
    assert (one.busy, one.watts, one.at_work, one.active) == (90.0, 300.0, 1, 1)
    lost = newest(at_work(), 11.0, busy, msgspec.structs.replace(lazy, lost=True))
    assert (lost.busy, lost.watts) == (90.0, 300.0)


def test_what_a_gpu_does_not_say_counts_for_no_mean_and_a_sum_without_it_is_not_known() -> None:
    load = newest(at_work(), 11.0, gpu(0, busy_percent=90.0, power_watts=300.0), gpu(1, dram_percent=50.0))
    assert (load.busy, load.dram, load.tensor, load.watts, load.capped) == (90.0, 50.0, None, None, None)


def test_a_rank_that_is_no_longer_active_ends_its_batch_and_is_not_counted_as_one_at_work() -> None:
    state = play(
        protocol.ActiveRanksChanged(at=11.0, active_ranks=1),
        finished(0, 1, 11.5),
        protocol.Tick(at=12.0, devices=[gpu(0), gpu(1)]),
        state=at_work(),
    )
    assert (state.loads[-1].at_work, state.loads[-1].active) == (0, 1), "rank 0 waits, whatever rank 1 does"


@pytest.mark.parametrize(
    ("reasons", "clock", "capped"),
    [
        (["power cap"], 1500, 1.0),
        (["power brake", "idle"], 1500, 1.0),
        (["board limit"], None, 1.0),
        (["power cap"], 1980, 0.0),
        (["power cap"], 1900, 0.0),
        (["thermal slowdown"], 900, 0.0),
        ([], 900, 0.0),
        (None, 900, None),
    ],
)
def test_a_power_limit_counts_where_it_lowers_the_clock_notably(reasons, clock, capped) -> None:
    sample = gpu(0, throttle_reasons=reasons, sm_clock_mhz=clock, sm_clock_max_mhz=1980)
    assert newest(at_work(1), 11.0, sample).capped == capped


def test_one_capped_gpu_of_two_is_half_of_them() -> None:
    capped, free = gpu(0, throttle_reasons=["power cap"]), gpu(1, throttle_reasons=[])
    assert newest(at_work(), 11.0, capped, free).capped == 0.5


# --- watts ------------------------------------------------------------------------------------------


def joules(first: float | None, then: float | None, *, seconds: float = 2.0) -> float | None:
    """Watts of a GPU that shows 250 W and these counters of energy, `seconds` apart."""
    state = play(
        protocol.Tick(at=11.0, devices=[gpu(0, energy_joules=first, power_watts=100.0)]),
        protocol.Tick(at=11.0 + seconds, devices=[gpu(0, energy_joules=then, power_watts=250.0)]),
        state=at_work(1),
    )
    return state.loads[-1].watts


def test_power_is_the_energy_since_the_last_sample_and_not_that_of_a_moment() -> None:
    assert joules(1000.0, 1700.0) == 350.0


@pytest.mark.parametrize(
    ("first", "then", "seconds"),
    [(None, 1700.0, 2.0), (1000.0, None, 2.0), (1000.0, 900.0, 2.0), (1000.0, 1700.0, RECENT_SECONDS + 1)],
    ids=["no counter before", "no counter now", "the counter began anew", "long ago"],
)
def test_without_two_counters_that_say_something_the_power_of_the_moment_counts(first, then, seconds) -> None:
    assert joules(first, then, seconds=seconds) == 250.0


def test_the_first_sample_of_all_has_only_the_power_of_its_moment() -> None:
    assert newest(at_work(1), 11.0, gpu(0, energy_joules=10.0, power_watts=100.0)).watts == 100.0


# --- processors -------------------------------------------------------------------------------------


@given(st.none() | st.floats(0, 1e6), st.none() | st.integers(0, 512))
def test_a_rank_never_uses_more_than_all_of_its_threads(percent: float | None, threads: int | None) -> None:
    found = clamped_cpu(percent, threads)
    if percent is None or not threads:
        assert found == percent
    else:
        assert found == min(percent, 100 * threads)


def test_a_process_shows_at_most_a_hundred_percent_a_thread_now_and_in_its_history() -> None:
    sample = ProcessSample(rank=0, cpu_percent=408.0, rss_bytes=1)
    state = play(protocol.Tick(at=11.0, processes=[sample]), state=at_work(1, device="cpu", threads=2))
    assert (state.processes[0].cpu_percent, state.cpu_history, state.loads[-1].cpu) == (200.0, ((200.0,),), 100.0)


def test_cpu_is_the_share_of_their_threads_that_ranks_with_a_batch_use() -> None:
    state = at_work(3, device="cpu", threads=2, active=2)
    load = newest(state, cpu={0: 300.0, 1: 150.0, 2: 2.0, 7: 9.0})
    assert (load.cpu, load.busy, load.shown_busy) == (75.0, None, 75.0), "rank 2 is inactive, so each may use 3 of 6"
    assert newest(at_work(1, device="cpu"), cpu={0: 90.0}).cpu is None, "of how many threads is not known"


@pytest.mark.parametrize(
    ("ranks", "active", "cores", "threads"),
    [(2, 2, 2, 1), (2, 1, 2, 2), (3, 2, 4, 2), (3, 1, 4, 4), (4, 3, 2, 1), (2, 1, None, 2)],
)
def test_the_cores_are_shared_by_the_ranks_at_work_as_the_ranks_are_told(ranks, active, cores, threads) -> None:
    state = at_work(ranks, device="cpu", threads=max(1, (cores or 2) // ranks), cores=cores, active=active)
    assert (state.threads(0), state.timeline.threads(0)) == (threads, threads)


def test_a_rank_that_is_left_alone_may_use_the_cores_of_all_once_the_others_have_ended_their_batches() -> None:
    state = at_work(2, device="cpu", threads=1, cores=2)
    fewer = play(protocol.ActiveRanksChanged(at=11.0, active_ranks=1), state=state)
    assert (fewer.threads(0), fewer.timeline.threads(0)) == (1, 1), "rank 1 is still at work"
    alone = play(finished(1, 2, 12.0), state=fewer)
    assert (alone.threads(0), alone.timeline.threads(0)) == (2, 2)
    tick = protocol.Tick(at=13.0, processes=[ProcessSample(rank=0, cpu_percent=120.0, rss_bytes=1)])
    shown = play(tick, state=alone)
    assert (shown.processes[0].cpu_percent, shown.loads[-1].cpu) == (120.0, 60.0)
    assert shown.timeline.busy[-1].percents == (60,)


def test_of_a_rank_on_a_gpu_or_one_that_is_not_known_no_threads_are() -> None:
    for state in (at_work(1), RunState()):
        assert (state.threads(0), state.threads(9), state.threads(-1)) == (None, None, None)
        assert (state.timeline.threads(0), state.timeline.threads(9)) == (None, None)


def test_the_busy_that_is_shown_is_that_of_gpus_where_they_have_one() -> None:
    assert (Load(1.0, busy=40.0, cpu=90.0).shown_busy, Load(1.0).shown_busy) == (40.0, None)


# --- several samples --------------------------------------------------------------------------------

PERCENTS = st.none() | st.floats(0, 100)
SAMPLES = st.builds(
    Load, at=st.floats(0, 100), busy=PERCENTS, dram=PERCENTS, tensor=PERCENTS, watts=PERCENTS, cpu=PERCENTS
)
FIGURES = ("busy", "dram", "tensor", "watts", "cpu")


@given(st.lists(SAMPLES), st.lists(SAMPLES))
def test_means_put_together_are_those_of_all_samples_each_over_those_that_have_it(one, other) -> None:
    found = means(one).with_all(means(other))
    for name in FIGURES:
        known = [value for load in (*one, *other) if (value := getattr(load, name)) is not None]
        mean: Mean = getattr(found, name)
        assert mean.count == len(known)
        assert mean.value == (pytest.approx(sum(known) / len(known)) if known else None)


def test_recent_samples_are_those_of_the_last_seconds() -> None:
    loads = [Load(float(second), busy=10.0 * second) for second in range(10)]
    assert recent(loads, 9.0, 2.0).busy == Mean(80.0 + 90.0, 2)
    assert recent(loads, 90.0) == LoadMeans()


@given(st.lists(PERCENTS))
def test_a_mean_is_of_what_is_known_and_a_sum_needs_all(values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    assert known_mean(values) == (pytest.approx(sum(known) / len(known)) if known else None)
    assert known_sum(values) == (sum(known) if known and len(known) == len(values) else None)


def sampled(state: RunState, *at: float) -> RunState:
    return play(*(protocol.Tick(at=each, devices=[gpu(0, busy_percent=each)]) for each in at), state=state)


def test_the_newest_samples_are_kept_from_when_the_ranks_were_ready_and_from_a_pause_on() -> None:
    state = sampled(at_work(), *(11.0 + second for second in range(LOADS + 3)))
    assert [load.at for load in state.loads] == [14.0 + second for second in range(LOADS)]
    paused = play(protocol.Paused(at=40.0, reason="asked for", asked=True), state=state)
    resumed = play(protocol.Resumed(at=50.0), state=sampled(paused, 41.0, 42.0))
    assert resumed.loads == ()
    loading = play(protocol.RanksLaunched(at=60.0, attempt=2, world_size=2), state=state)
    assert play(protocol.RanksReady(at=70.0), state=sampled(loading, 61.0)).loads == ()


# --- which samples a period keeps -------------------------------------------------------------------


def kept(*events: AnyEvent, ranks: int = 2) -> int:
    """How many samples the newest period keeps if two are taken after these events."""
    state = play(
        protocol.BatchSizeChanged(at=11.0, batch_size=2, auto=False, reason="as asked for"),
        *events,
        state=play(finished(0, 1, 11.0), finished(1, 2, 11.0), state=at_work(ranks)),
    )
    return sampled(state, 20.0, 21.0).periods[-1].load.busy.count


def begun(rank: int, batch: int = 5) -> protocol.BatchStarted:
    return protocol.BatchStarted(at=12.0, rank=rank, batch=batch, rows=2)


def test_a_sample_counts_while_every_active_rank_has_a_batch_of_the_period_in_hand() -> None:
    assert kept(begun(0), begun(1)) == 1
    assert kept(begun(0)) == 0, "rank 1 waits"
    assert kept() == 0
    assert kept(begun(0), begun(1), finished(1, 5, 13.0)) == 0


def test_a_batch_of_the_setting_before_keeps_a_sample_from_counting() -> None:
    turned = protocol.BatchSizeChanged(at=13.0, batch_size=4, auto=False, reason="as asked for")
    assert kept(begun(0), begun(1), turned) == 0
    assert kept(begun(0), begun(1), turned, finished(1, 5, 14.0), begun(1, 7)) == 0
    both = (finished(0, 5, 14.0), finished(1, 5, 14.0), begun(0, 7), begun(1, 8))
    assert kept(begun(0), begun(1), turned, *both) == 1


def test_a_rank_that_is_at_work_beside_the_active_ones_keeps_a_sample_from_counting() -> None:
    fewer = protocol.ActiveRanksChanged(at=13.0, active_ranks=1)
    assert kept(begun(0), begun(1), fewer, finished(0, 5, 14.0), begun(0, 7)) == 0
    assert kept(begun(0), begun(1), fewer, finished(0, 5, 14.0), finished(1, 5, 14.0), begun(0, 7)) == 1


def test_a_sample_is_of_the_time_before_it_so_all_must_have_been_at_work_at_the_last_one_too() -> None:
    state = play(
        protocol.BatchSizeChanged(at=11.0, batch_size=2, auto=False, reason="as asked for"),
        state=play(finished(0, 1, 11.0), finished(1, 2, 11.0), state=at_work()),
    )
    state = sampled(state, 11.5)
    both = sampled(play(begun(0), begun(1), state=state), 12.1)
    assert (both.periods[-1].load.busy.count, both.loads[-1].period) == (0, state.period_number)
    assert sampled(both, 13.1).periods[-1].load.busy.count == 1
    between = play(finished(1, 5, 13.0), state=both)
    missing = play(begun(1, 6), state=sampled(between, 13.1))
    assert sampled(missing, 14.1).periods[-1].load.busy.count == 0, "rank 1 had none at 13.1 s"
    assert sampled(missing, 14.1, 15.1).periods[-1].load.busy.count == 1


def test_a_sample_is_of_the_period_that_all_batches_in_hand_began_in() -> None:
    state = sampled(at_work(), 11.0, 12.0)
    turned = play(protocol.BatchSizeChanged(at=12.1, batch_size=4, auto=False, reason="as asked for"), state=state)
    here = state.period_number
    old = sampled(turned, 13.0, 14.0)
    assert [load.period for load in old.loads] == [None, here, None, None], "batches of the setting before"
    new = play(finished(0, 1, 14.1), finished(1, 2, 14.1), begun(0, 7), begun(1, 8), state=old)
    assert [load.period for load in sampled(new, 15.0, 16.0).loads][-2:] == [None, here + 1]
    points = sampled(new, 15.0, 16.0).history
    assert None not in [point.busy for point in points], "the chart goes on"


def test_a_batch_that_began_beside_an_inactive_rank_is_of_the_period_once_that_one_has_ended() -> None:
    state = play(protocol.ActiveRanksChanged(at=10.5, active_ranks=1), state=at_work())
    state = play(finished(0, 1, 11.0), begun(0, 5), state=state)
    assert sampled(state, 12.0, 13.0).loads[-1].period is None
    state = play(finished(1, 2, 12.5), state=state)
    assert sampled(state, 13.0, 14.0).loads[-1].period == state.period_number


def test_a_warm_up_batch_is_of_no_period() -> None:
    assert kept(begun(0), msgspec.structs.replace(begun(1), warm_up=True)) == 0


# --- the history ------------------------------------------------------------------------------------


def test_a_point_of_the_history_has_the_load_since_the_point_before() -> None:
    state = at_work(1)
    for second in (1, 2, 3):
        sample = gpu(0, busy_percent=10.0 * second, dram_percent=float(second))
        state = play(protocol.Tick(at=10.0 + second, devices=[sample]), state=state)
    assert state.history == (
        HistoryPoint(1.0, 0.0, 10.0, 1.0), HistoryPoint(2.0, 0.0, 20.0, 2.0), HistoryPoint(3.0, 0.0, 30.0, 3.0),
    )  # fmt: skip
    late = play(protocol.Tick(at=14.0), state=state)
    assert late.history[-1].busy == 30.0, "no sample since then: the newest one"
    assert play(protocol.Tick(at=18.0), state=state).history[-1].busy is None, "that was too long ago"
    bare = play(protocol.Tick(at=11.0), state=at_work(1))
    assert bare.history == (HistoryPoint(1.0, 0.0, None, None),)


def test_a_thinned_history_keeps_the_load_as_the_mean_of_what_is_known() -> None:
    state = at_work(1)
    for second in range(1, HISTORY_POINTS + 2):
        # DRAM is known every other second only.
        sample = gpu(0, busy_percent=float(second % 2) * 40, dram_percent=30.0 if second % 2 else None)
        state = play(protocol.Tick(at=10.0 + second, devices=[sample]), state=state)
    assert state.history_step == 2.0
    assert {(point.busy, point.dram) for point in state.history[:200]} == {(20.0, 30.0)}


# --- rates of the ranks -----------------------------------------------------------------------------

TIMES = st.floats(0, 3)
BATCHES = st.integers(1, 3)
RANKS = st.integers(0, 3)
EVENTS = st.one_of(
    st.builds(protocol.BatchStarted, rank=RANKS, batch=BATCHES, rows=st.just(2)),
    st.builds(lambda rank, tokens: output(1, tokens, rank=rank), RANKS, st.integers(0, 50)),
    st.builds(lambda rank, batch: finished(rank, batch, 0.0), RANKS, BATCHES),
    st.builds(
        lambda rank, batch, tokens: protocol.Tick(
            steps=[StepsInFlight(rank=rank, batch=batch, step=1, output_tokens=tokens)]
        ),
        RANKS, BATCHES, st.integers(0, 10**6),
    ),
    st.builds(protocol.BatchFailed, rank=RANKS, batch=BATCHES, kind=st.just("error"), error=st.just("e")),
    st.builds(protocol.RankLost, rank=RANKS, cause=st.just("c")),
    st.builds(protocol.RanksLaunched, attempt=st.just(2), world_size=st.integers(1, 4)),
    st.builds(protocol.ActiveRanksChanged, active_ranks=st.integers(1, 4)),
    st.builds(
        protocol.RunTakenUp, config=st.just(RunConfig(prompts="p", ranks=2)), completed=st.just(3), failed=st.just(0),
        prompt_tokens=st.just(9), output_tokens=st.just(30),
    ),
)  # fmt: skip


@given(st.lists(st.tuples(TIMES, EVENTS), max_size=40))
def test_the_rates_of_the_ranks_add_up_to_that_of_the_run_whatever_happens(steps) -> None:
    state, at = at_work(3), 10.0
    for seconds, event in steps:
        at += seconds
        state = play(msgspec.structs.replace(event, at=at), state=state)
        assert sum(state.rank_rate(rank) for rank in state.ranks) == pytest.approx(state.rate_now)
        assert all(state.rank_rate(rank) >= 0 for rank in state.ranks)
        assert sum(state.mean_rank_rate(rank) for rank in state.ranks) >= 0


def test_each_ranks_rate_is_over_the_same_seconds_as_that_of_the_run() -> None:
    state = at_work()
    for second in range(1, 9):
        steps = [StepsInFlight(rank=rank, batch=rank + 1, step=1, output_tokens=(rank + 1) * 10 * second)
                 for rank in (0, 1)]  # fmt: skip
        state = play(protocol.Tick(at=10.0 + second, steps=steps), state=state)
    assert (state.rank_rates, state.rate_now) == ((10.0, 20.0), 30.0)
    assert [state.rank_rate(rank) for rank in state.ranks] == [10.0, 20.0]
