"""Advice: each with its figure, and none without evidence."""

import msgspec

from rankdeck.runner.advice import advice
from rankdeck.runner.advice.segments import end_of
from rankdeck.runner.advice.slow_rank import slow_ranks
from rankdeck.runner.forecast.forecast import what_if
from rankdeck.runner.protocol import DeviceSample, Output, ProcessSample, RankReady, StepsInFlight, Tick
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import DeviceState, RankState, RunState, StepMark
from rankdeck.runner.state.periods import KnobPeriod, RankShare
from rankdeck.runner.state.timeline import BusyPoint
from tests import scripted, scripted_timeline
from tests.runner.forecast.test_cost_model import point

GIB = 2**30


def ready(rank: int, **facts) -> RankReady:
    values = {"device": f"cuda:{rank}", "device_name": "H100", "dtype": "bfloat16", "engine": "static", "seconds": 1}
    return RankReady(rank=rank, **{**values, "parameters": 1, "parameter_bytes": 2 * GIB, **facts})


def running(world_size: int = 2, **changes) -> RunState:
    """A minute into an unremarkable run."""
    state = RunState(
        config=RunConfig(prompts="p", ranks=world_size),
        prompts=1000,
        phase="running",
        now=60.0,
        ready_at=0.0,
        first_batch_at=0.0,
        batch_size=16,
        active_ranks=world_size,
        attempt=1,
        ranks=tuple(
            RankState(rank=rank, ready=ready(rank), batches=5, slots=100, padded_slots=10, busy_seconds=59.0)
            for rank in range(world_size)
        ),
    )
    return msgspec.structs.replace(state, **changes)


def device(**facts) -> DeviceState:
    sample = {"index": 3, "uuid": "u", "name": "H100", "memory_used_bytes": 60 * GIB, "memory_total_bytes": 80 * GIB}
    busy = facts.pop("busy", 95.0)
    return DeviceState(sample=DeviceSample(**{**sample, **facts}), busy_history=(busy,) * 20, ranks=(0,))


def said(state: RunState) -> list[str]:
    return [one.text for one in advice.advise(state)]


def test_nothing_is_said_without_evidence():
    assert said(RunState()) == []
    assert said(running()) == []
    assert said(running(devices=(device(),))) == []


def test_the_articles_five_gpus_need_a_larger_batch():
    assert said(running(5, prompts=100)) == [
        "5 ranks at batch size 16 need 2 rounds for 100 prompts; batch size 20 needs 1."
    ]
    assert said(running(4, prompts=100, batch_size=15)) == [], "a much larger batch size is another question"
    assert said(running(5, prompts=100, batch_size=20)) == []
    assert said(running(5, prompts=100, auto=True)) == [], "the search knows"


def test_padding_waste_is_reported_with_its_cure():
    wasteful = {"ranks": (RankState(rank=0, batches=9, busy_seconds=59.0),), "slots": 100, "padded_slots": 45}
    order = RunConfig(prompts="p", order="input")
    assert said(running(1, config=order, **wasteful)) == [
        "Padding waste is 45% of all token slots; --order length puts like lengths together."
    ]
    assert "smaller batch size" in said(running(1, **wasteful))[0]


def test_an_idle_rank_is_named_but_not_an_inactive_one():
    idle = RankState(rank=1, batches=4, busy_seconds=30.0)
    state = running()
    ranks = (state.ranks[0], idle)
    assert said(running(ranks=ranks)) == ["Rank 1 had no batch in hand for 50% of its time."]
    assert said(running(ranks=ranks, active_ranks=1)) == []


def test_fewer_tokens_per_second_alone_make_no_rank_slow():
    """Its batches may have fewer rows, or longer prompts: only decode steps at similar rows are compared."""
    period = KnobPeriod(
        batch_size=16,
        active_ranks=3,
        shares={0: RankShare(3, 300, 3.0), 1: RankShare(3, 150, 3.0), 2: RankShare(3, 300, 3.0)},
    )
    assert said(running(3, periods=(period,))) == []


def test_a_gpu_with_low_load_and_free_memory_needs_larger_batches():
    waiting = device(busy=40.0, memory_used_bytes=8 * GIB)
    assert said(running(devices=(waiting,))) == [
        "GPU 3 is busy 40% and 90% of its memory is free: try a larger batch size."
    ]
    assert said(running(devices=(device(busy=40.0),))) == [], "memory is in use"
    assert said(running(devices=(waiting,), paused="asked for")) == []


def test_nearly_full_memory_and_a_capped_rank_are_reported():
    assert said(running(devices=(device(memory_used_bytes=77 * GIB),))) == [
        "GPU 3 has 96% of its memory in use: near the wall."
    ]
    state = running()
    capped = msgspec.structs.replace(state.ranks[1], cap=8)
    assert said(running(ranks=(state.ranks[0], capped))) == [
        "Rank 1 ran out of memory and gets at most 8 prompts per batch."
    ]


def test_throttling_is_reported_with_its_clock_and_idling_is_not_throttling():
    hot = device(throttle_reasons=["idle", "thermal slowdown (hardware)"], sm_clock_mhz=900, sm_clock_max_mhz=1980)
    assert said(running(devices=(hot,))) == ["GPU 3 is throttled (thermal slowdown (hardware)) at 900 of 1980 MHz."]
    assert said(running(devices=(device(throttle_reasons=["idle", "application clocks"]),))) == []


def test_memory_held_by_another_process_is_reported():
    crowded = ready(0, memory_total_bytes=80 * GIB, memory_free_bytes=40 * GIB)
    state = running()
    ranks = (msgspec.structs.replace(state.ranks[0], ready=crowded), state.ranks[1])
    assert said(running(ranks=ranks, devices=(device(),))) == [
        "GPU 3 had 38.0 GiB in use beside the model: another process?"
    ]


def test_the_last_turn_is_compared_with_the_last_measured_period_before_it():
    measured = KnobPeriod(batch_size=4, active_ranks=1, shares={0: RankShare(1, 100, 1.0)})
    empty = KnobPeriod(batch_size=8, active_ranks=1)
    now = KnobPeriod(batch_size=16, active_ranks=1)
    assert advice.last_turn(running(periods=(measured,))) is None
    assert advice.last_turn(running(periods=(measured, empty, now))) == advice.KnobEffect(before=measured, after=now)
    assert advice.last_turn(running(periods=(empty, now))) is None


def test_each_side_of_a_turn_has_all_periods_of_its_setting_as_the_table_has():
    def brought(size: int, tokens: int) -> KnobPeriod:
        return KnobPeriod(batch_size=size, active_ranks=1, shares={0: RankShare(1, tokens, 1.0)})

    four, eight, again = brought(4, 100), brought(8, 200), brought(4, 140)
    turn = advice.last_turn(running(periods=(four, eight, again)))
    assert turn is not None
    assert (turn.before.warm_rate, turn.after.warm_rate) == (200, 120)
    unmeasured = KnobPeriod(batch_size=4, active_ranks=1)
    turn = advice.last_turn(running(periods=(four, eight, unmeasured)))
    assert turn is not None
    assert turn.after.warm_rate is None, "what it brought earlier does not say what this turn brings"
    turn = advice.last_turn(running(periods=(four, eight, again, KnobPeriod(batch_size=16, active_ranks=1))))
    assert turn is not None
    assert turn.before.warm_rate == 120


def test_a_trial_is_no_turn_and_a_sweep_is_compared_with_the_setting_before_it():
    before = KnobPeriod(batch_size=4, active_ranks=2, shares={0: RankShare(1, 100, 1.0), 1: RankShare(1, 100, 1.0)})
    trial = msgspec.structs.replace(before, batch_size=32, trial=True)
    best = KnobPeriod(batch_size=16, active_ranks=2)
    assert advice.last_turn(running(periods=(before, trial))) is None
    assert advice.last_turn(running(periods=(before, trial, best))) == advice.KnobEffect(before=before, after=best)


def test_the_turn_with_the_largest_predicted_gain_is_advised_with_its_figure():
    few = running(2, batch_size=2, costs=(point(2, ranks=2), point(4, ranks=2)))
    (best,) = [turn for turn in what_if(few) if turn.batch_size == 4]
    assert said(few) == [f"Batch size 4 would bring {best.steady_percent:.0f}% more tok/s (predicted)."]
    assert best.change_percent > 10
    # Not while the size is searched for, or the run is paused.
    assert said(msgspec.structs.replace(few, auto=True)) == []
    assert said(msgspec.structs.replace(few, paused="asked for")) == []


def test_a_setting_that_has_brought_more_is_advised_by_what_it_brought():
    slow, fast = (
        KnobPeriod(batch_size=size, active_ranks=2, shares=dict.fromkeys((0, 1), RankShare(2, tokens, 1.0)))
        for size, tokens in ((2, 100), (4, 150))
    )
    back = running(2, batch_size=2, costs=(point(2, ranks=2), point(4, ranks=2)), periods=(fast, slow))
    assert said(back) == ["Batch size 4 brought 50% more tok/s (measured)."]


def test_a_larger_batch_is_not_advised_after_a_rank_ran_out_of_memory():
    few = running(2, batch_size=2, costs=(point(2, ranks=2), point(4, ranks=2)))
    capped = (few.ranks[0], msgspec.structs.replace(few.ranks[1], cap=2))
    assert [entry.kind for entry in advice.advise(msgspec.structs.replace(few, ranks=capped))] == ["memory"]


def test_an_extrapolated_gain_is_given_as_about():
    few = running(2, batch_size=2, costs=(point(1, ranks=2), point(2, ranks=2)))
    assert said(few)[0].startswith("Batch size 4 would bring about ")
    assert said(few)[0].endswith("(a guess).")


def test_a_device_that_names_a_rank_the_state_does_not_have_is_no_error():
    crowded = ready(0, memory_total_bytes=80 * GIB, memory_free_bytes=40 * GIB)
    state = running(1, devices=(msgspec.structs.replace(device(), ranks=(0, 7)),))
    state = msgspec.structs.replace(state, ranks=(msgspec.structs.replace(state.ranks[0], ready=crowded),))
    assert said(state) == []
    assert said(msgspec.structs.replace(state, ranks=())) == []


def test_a_throttle_reason_that_lowers_no_clock_is_not_reported():
    capped = device(throttle_reasons=["power cap"], sm_clock_mhz=1980, sm_clock_max_mhz=1980)
    assert said(running(devices=(capped,))) == []


def test_a_rank_with_slow_decode_steps_is_the_first_advice():
    state = scripted_timeline.straggler().state
    first = advice.advise(state)[0]
    assert first.kind == "slow rank"
    assert first.text.startswith("Rank 2 is slow: ")
    assert "CPU" not in first.text
    assert slow_ranks(state) == {2}


def test_a_slow_rank_that_gets_less_cpu_than_the_others_is_reported_with_that_cause():
    script = in_flight(slow={2: 1.8})
    starved = on_a_cpu(script.state, (96, 96, 30, 96))
    said_first = advice.advise(starved)[0].text
    assert said_first.startswith(
        "Rank 2 is slow: something else is using its CPU; it gets 30% of a core, the others 96%. "
        "It takes 156 ms per decode step, 1.8 x the others' 86 ms, which cost "
    ), "the cause first: a narrow line has room for that alone"
    assert "CPU" not in advice.advise(on_a_cpu(script.state, (96, 96, 90, 96)))[0].text
    # A moment is no evidence.
    assert "CPU" not in advice.advise(on_a_cpu(script.state, (96, 96, 30, 96), seconds=6))[0].text
    # It is still reported after the end.
    over = advice.advise(on_a_cpu(script.ended().state, (96, 96, 30, 96)))[0].text
    assert over.startswith("Rank 2 is slow: something else was using its CPU; it got 30% of a core, the others 96%.")


def in_flight(*, slow: dict[int, float], seconds: float = 40.0) -> scripted_timeline.PacedScript:
    """Four ranks with more prompts than they ever finish."""
    script = scripted_timeline.PacedScript(4, prompts=10_000, slow=slow, step=0.08).begun()
    return script.pull(until=script.at + seconds)


def on_a_cpu(state: RunState, percents: tuple[int, ...], seconds: int = 60) -> RunState:
    """The same run on a CPU, whose ranks got these percents of their cores over the last `seconds`."""
    processes = tuple(ProcessSample(rank=rank.rank, cpu_percent=96.0, rss_bytes=None) for rank in state.ranks)
    end = end_of(state)
    busy = tuple(BusyPoint(end - before, percents) for before in range(seconds, -1, -1))
    timeline = msgspec.structs.replace(state.timeline, busy=busy, busy_of="CPU", busy_step=1.0)
    return msgspec.structs.replace(state, devices=(), processes=processes, timeline=timeline)


def test_a_rank_is_slow_while_its_cause_lasts_and_at_the_end_if_it_was_over_the_whole_run():
    script = in_flight(slow={1: 2.0})
    assert slow_ranks(script.state) == {1}
    assert "in its last batch." in advice.advise(script.state)[0].text
    script.slow = {}
    script.pull(until=script.at + 40)
    assert slow_ranks(script.state) == frozenset()
    assert not any(entry.kind == "slow rank" for entry in advice.advise(script.state))
    script.ended()
    assert slow_ranks(script.state) == {1}


def test_a_slow_rank_is_reported_in_its_first_batch_and_until_soon_after_its_cause_is_gone():
    script = scripted_timeline.PacedScript(2, prompts=10_000, slow={1: 2.0}, step=0.2, steps=200).begun()
    ready = script.at
    while not slow_ranks(script.state):
        script.pull(until=script.at + 1)
    assert slow_ranks(script.state) == {1}
    assert script.at - ready < 13, "24 steps of 0.4 s, and the prefill"
    assert "in the batch it has in hand." in said(script.state)[0]
    assert all(rank.batches == 0 for rank in script.state.ranks)
    while script.state.ranks[1].batches == 0:
        # Even while little is known about the other rank's batch in hand: its last one is known.
        script.pull(until=script.at + 0.5)
        assert slow_ranks(script.state) == {1}
    script.slow = {}
    mended = script.at
    while slow_ranks(script.state):
        script.pull(until=script.at + 1)
    assert script.at - mended < 60, "48 steps of the next batch"


def test_a_full_batch_is_not_slow_beside_one_that_rows_have_left():
    """Steps of few rows are quick: only batches with similar rows at a time are compared."""
    script = scripted_timeline.PacedScript(2, prompts=10_000, step=0.2, steps=200).begun()
    state = script.pull(until=script.at + 9).state

    def seen(rank: int, step_seconds: float, rows: int) -> RankState:
        first, last = StepMark(0.0, 1), StepMark(40 * step_seconds, 41, 40 * rows)
        return msgspec.structs.replace(state.ranks[rank], first_step=first, last_step=last)

    few_and_all = msgspec.structs.replace(state, ranks=(seen(0, 0.2, 6), seen(1, 0.4, 16)))
    assert slow_ranks(few_and_all) == frozenset()
    both_all = msgspec.structs.replace(state, ranks=(seen(0, 0.2, 16), seen(1, 0.4, 16)))
    assert slow_ranks(both_all) == {1}


def test_steps_in_flight_are_counted_with_the_rows_that_were_in_them():
    script = scripted.Script(1, prompts=100, batch_size=4).started().launched().loading().ready()
    script.begin_batch(0)
    for step, answered in ((1, False), (11, True), (21, False)):
        script.wait(1).add(Tick(steps=[StepsInFlight(rank=0, batch=1, step=step, output_tokens=step)]))
        if answered:
            script.add(Output(record=scripted.record(0, 0, 1)))
    (rank,) = script.state.ranks
    assert (rank.first_step.step, rank.first_step.row_steps) == (1, 0)
    assert (rank.last_step.step, rank.last_step.row_steps) == (21, 4 * 10 + 3 * 10)


def test_one_batch_each_is_enough_if_it_has_many_steps_as_in_a_job_of_one_round():
    one_round = scripted_timeline.PacedScript(2, prompts=32, slow={1: 1.6}).begun().pull().ended().state
    assert (
        "Rank 1 is slow: 86 ms per decode step, 1.6 x the other rank's 54 ms, which cost 1.6 s in its batch."
        in said(one_round)
    )
    short = scripted_timeline.PacedScript(2, prompts=32, slow={1: 1.6}, steps=20).begun().pull().ended().state
    assert not any("slow" in words for words in said(short))


def test_ranks_that_all_get_less_cpu_than_they_could_use_are_reported():
    state = in_flight(slow={}).state
    pressed = on_a_cpu(state, (55,) * 4)
    (words,) = [entry.text for entry in advice.advise(pressed) if entry.kind == "cpu"]
    assert words == "Each rank gets about 55% of a core, which they could use whole: something else is using the CPU."
    for calm in (
        on_a_cpu(state, (96,) * 4),
        on_a_cpu(state, (55, 55, 55, 96)),
        on_a_cpu(state, (55,) * 4, seconds=6),
        msgspec.structs.replace(pressed, paused="asked for"),
        on_a_cpu(in_flight(slow={}, seconds=5).state, (55,) * 4),
    ):
        assert not any(entry.kind == "cpu" for entry in advice.advise(calm))


def test_nothing_is_advised_that_was_not_measured():
    one_size = running(2, batch_size=2, costs=(point(2, ranks=2),))
    assert max(turn.change_percent for turn in what_if(one_size)) > 10
    assert said(one_size) == []
    # One of two ranks is active, but one alone was never measured.
    alone = running(2, batch_size=2, active_ranks=1, costs=(point(2, ranks=2), point(4, ranks=2)))
    assert all(turn.extrapolated for turn in what_if(alone))
    assert "ranks would bring" not in " ".join(said(alone))
