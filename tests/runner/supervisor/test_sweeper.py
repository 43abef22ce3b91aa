"""The trials of a sweep, one call at a time on a clock of the test's: who gets what, and what a trial ends with."""

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.records import DeviceSample
from rankdeck.runner.protocol.sweep_plan import SweepPlan, Trial, TrialRecord
from rankdeck.runner.scheduling.scheduler import Assignment, Scheduler
from rankdeck.runner.supervisor import sweeper
from rankdeck.runner.supervisor.sweeper import Sweeper, _Prompts, order_of
from tests.runner.supervisor.clocked import ClockedEvents
from tests.runner.supervisor.in_process import ready, result

PROMPTS = 100


def plan(**changes) -> SweepPlan:
    usual = {"batch_sizes": [2], "ranks": [2], "repeats": 1, "least_rounds": 2, "least_seconds": 0.0}
    return SweepPlan(**{**usual, **changes})


class Swept:
    """A sweep that has begun on two ranks."""

    def __init__(self, *, prompts: int = PROMPTS, by_length: bool = False, reports=None, before=(), **changes) -> None:
        self.plan = plan(**changes)
        self.events = ClockedEvents(RunConfig(prompts="p", ranks=2, batch_size=9, max_new_tokens=10), prompts)
        self.events.ready(*(reports or (ready(0), ready(1))))
        for event in before:
            self.events.emit(event)
        self.lengths = [number % 7 for number in range(prompts)]
        self.scheduler = Scheduler(self.lengths, order="length", batch_size=9, active_ranks=2)
        self.sweeper = Sweeper(
            self.plan,
            self.scheduler,
            self.lengths,
            by_length=by_length,
            events=self.events,  # type: ignore[arg-type]
        )
        self.sweeper.begin()
        self.calls = 0

    def next(self, rank: int) -> Assignment | None:
        self.calls += 1
        assert self.calls < 5000, "the sweep never ends"
        given = self.sweeper.next_batch(rank) if self.sweeper.active else None
        if given is not None:
            rows, kept = len(given.indices), given.kept
            self.events.emit(
                protocol.BatchStarted(rank=rank, batch=given.batch, rows=rows, warm_up=given.warm_up, kept=kept)
            )
        return given

    def ends(self, given: Assignment | None) -> None:
        """The batch is done now."""
        assert given is not None
        if given.kept:
            for index in given.indices:
                self.scheduler.settle(index)
        self.scheduler.finish(given.batch)
        done = protocol.BatchFinished(rank=given.rank, batch=given.batch, result=result(len(given.indices)))
        self.events.emit(done)
        self.sweeper.batch_finished(done)

    def fails(self, given: Assignment | None, kind: str = "error", error: str = "no such word") -> None:
        assert given is not None
        self.scheduler.finish(given.batch)
        self.sweeper.batch_failed(kind, error)

    def warm_up(self) -> None:
        """All ranks of the current trial warm up; the first measured batch is next."""
        for given in [self.next(rank) for rank in (0, 1)]:
            if given is not None:
                assert given.warm_up
                self.ends(given)

    def whole_trial(self, *, warm: bool = False) -> TrialRecord:
        """A trial with nothing unusual, from its warm-up (or if it is `warm`, its first round) to its record."""
        before = len(self.records)
        if not warm:
            self.warm_up()
        while len(self.records) == before:
            given = [one for one in (self.next(0), self.next(1)) if one is not None]
            assert given
            self.events.at += 1.0
            for one in given:
                self.ends(one)
        return self.records[-1]

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        assert self.events.state.sweep is not None
        return self.events.state.sweep.records

    @property
    def settled(self) -> list[str]:
        return [event.reason for event in self.events.of(protocol.SweepSettled)]


# --- the order of the trials --------------------------------------------------------------------


def test_every_repeat_has_every_setting_once_in_an_order_of_its_own_and_trials_count_from_1():
    trials = order_of(plan(batch_sizes=[8, 1, 4, 2, 4], ranks=[2, 1, 2], repeats=3))
    assert [trial.number for trial in trials] == list(range(1, 25))
    assert [trial.repeat for trial in trials] == [1] * 8 + [2] * 8 + [3] * 8
    repeats = [[(trial.active_ranks, trial.batch_size) for trial in trials[at : at + 8]] for at in (0, 8, 16)]
    for settings in repeats:
        assert sorted(settings) == [(ranks, size) for ranks in (1, 2) for size in (1, 2, 4, 8)]
    assert len({tuple(settings) for settings in repeats}) == 3


def test_the_order_is_the_same_for_the_same_plan_and_another_for_another_seed():
    one, same, other = (order_of(plan(batch_sizes=[1, 2, 4, 8], ranks=[1, 2], seed=seed)) for seed in (0, 0, 1))
    assert one == same
    assert [trial.batch_size for trial in one] != [trial.batch_size for trial in other]


# --- one trial ----------------------------------------------------------------------------------


def test_a_trial_warms_up_every_rank_then_measures_whole_rounds_and_keeps_no_answer():
    run = Swept()
    assert run.events.seen[-1].trials == order_of(run.plan)
    zero = run.next(0)
    assert (zero.warm_up, zero.measured, zero.kept, len(zero.indices)) == (True, False, False, 2)
    (started,) = run.events.of(protocol.TrialStarted)
    assert (started.trial.active_ranks, started.trial.batch_size) == (2, 2)
    assert (run.scheduler.active_ranks, run.scheduler.batch_size) == (2, 2)
    one = run.next(1)
    assert one.warm_up
    run.ends(zero)
    assert run.next(0) is None, "all ranks begin together"
    assert not run.events.of(protocol.TrialWarm)
    run.events.at = 5.0
    run.ends(one)
    rounds = [[run.next(0), run.next(1)]]
    assert run.events.of(protocol.TrialWarm) == [protocol.TrialWarm(at=5.0, trial=started.trial)]
    run.events.at = 7.0
    run.ends(rounds[0][0])
    rounds.append([run.next(0)])
    run.events.at = 8.0
    run.ends(rounds[1][0])
    assert run.next(0) is None, "it has done its rounds"
    run.ends(rounds[0][1])
    rounds[1].append(run.next(1))
    run.events.at = 9.0
    assert run.records == ()
    run.ends(rounds[1][1])
    (record,) = run.records
    assert [(one.measured, one.warm_up, one.kept, len(one.indices)) for pair in rounds for one in pair] == [
        (True, False, False, 2)
    ] * 4
    assert len({index for pair in rounds for one in pair for index in one.indices}) == 8
    assert (record.trial, record.outcome, record.reason) == (started.trial, "measured", None)
    assert (record.result.rounds, record.result.batches, record.result.seconds) == (2, 4, 4.0)
    assert record.result.batch_seconds == pytest.approx((2 + 1 + 3 + 1) / 4)
    assert record.result.output_tokens == 4 * result(2).output_tokens
    assert run.settled == ["all trials are over"]
    assert not run.sweeper.active
    assert run.scheduler.unsettled == run.scheduler.drawable == PROMPTS


def test_a_rank_that_is_not_active_in_a_trial_gets_nothing_and_is_not_waited_for():
    run = Swept(ranks=[1])
    zero = run.next(0)
    assert run.next(1) is None
    run.ends(zero)
    first = run.next(0)
    assert first.measured
    assert run.next(1) is None
    run.ends(first)
    run.ends(run.next(0))
    assert run.records[0].outcome == "measured"
    assert run.records[0].result.rank_tokens_per_second == [pytest.approx(run.records[0].result.tokens_per_second)]


@pytest.mark.parametrize(("seconds", "rounds"), [(2.0, 2), (2.5, 3), (3.0, 3), (3.1, 4)])
def test_a_trial_goes_on_by_whole_rounds_of_all_ranks_until_it_has_lasted_long_enough(seconds, rounds):
    run = Swept(least_seconds=seconds)
    record = run.whole_trial()
    assert (record.result.rounds, record.result.batches) == (rounds, 2 * rounds)
    assert record.result.seconds == rounds


def test_the_first_rank_to_get_there_decides_on_one_more_round_for_all():
    run = Swept(least_seconds=1.5, least_rounds=1)
    run.warm_up()
    zero, one = run.next(0), run.next(1)
    run.events.at = 1.0
    run.ends(zero)
    second = run.next(0)
    assert second is not None, "1 s is not long enough"
    run.events.at = 10.0
    run.ends(one)
    run.ends(second)
    last = run.next(1)
    assert last is not None, "rank 0 has done two rounds, so rank 1 does"
    run.ends(last)
    assert (run.records[0].result.rounds, run.records[0].result.batches) == (2, 4)


def test_a_pause_has_the_trial_done_again_once_what_is_in_hand_is_over():
    run = Swept()
    run.warm_up()
    zero, one = run.next(0), run.next(1)
    run.sweeper.interrupt()
    run.ends(zero)
    assert run.next(0) is None, "rank 1 is at work on what will not count"
    run.ends(one)
    assert run.records == ()
    again = run.next(0)
    assert again.warm_up
    assert len({event.trial for event in run.events.of(protocol.TrialStarted)}) == 1
    assert len(run.events.of(protocol.TrialStarted)) == 2
    run.ends(again)
    run.ends(run.next(1))
    assert run.whole_trial(warm=True).result.rounds == 2
    assert len(run.records) == 1


def test_a_rank_that_is_warm_waits_for_one_that_has_not_begun_to_warm_up():
    run = Swept()
    run.ends(run.next(0))
    assert run.next(0) is None, "nothing is in flight, but rank 1 is cold"
    assert run.events.of(protocol.TrialWarm) == []
    run.ends(run.next(1))
    assert run.next(0).measured


def test_a_sweep_within_a_run_begins_once_what_was_in_hand_before_it_is_over():
    run = Swept()
    earlier = run.scheduler.assign(1, run.scheduler.draw(3))
    assert run.next(0) is None
    assert run.events.of(protocol.TrialStarted) == []
    run.ends(earlier)
    assert run.next(0).warm_up


@pytest.mark.parametrize("how", ["pause", "error", "lost"])
def test_what_a_trial_that_came_to_nothing_had_in_stock_is_handed_out_again(how):
    run = Swept(outputs=True, prompts=30)
    run.warm_up()
    zero = run.next(0)
    assert run.scheduler.drawable == 30 - 8
    if how == "pause":
        run.sweeper.interrupt()
        run.scheduler.finish(zero.batch)
        run.sweeper.batch_finished(protocol.BatchFinished(rank=0, batch=zero.batch, result=result(2)))
    elif how == "error":
        run.fails(zero)
    else:
        run.scheduler.lose(0)
        run.sweeper.ranks_lost("it died")
    assert run.scheduler.drawable == 30
    assert len(run.records) == (how != "pause")


def test_a_pause_between_two_trials_spoils_nothing():
    run = Swept(repeats=2)
    run.whole_trial()
    run.sweeper.interrupt()
    run.whole_trial()
    assert len(run.events.of(protocol.TrialStarted)) == 2
    assert run.settled == ["all trials are over"]


def gpu(number: int, watts: float) -> list[DeviceSample]:
    return [DeviceSample(index=number, uuid=f"GPU-uuid-{number}", name="H200", power_watts=watts)]


def test_samples_count_from_the_end_of_the_warm_up_on():
    reports = [
        msgspec.structs.replace(ready(rank), device=f"cuda:{rank}", device_uuid=f"uuid-{rank}") for rank in (0, 1)
    ]
    run = Swept(ranks=[1], reports=reports)
    run.sweeper.sample(gpu(0, 900.0))
    zero = run.next(0)
    run.sweeper.sample(gpu(0, 900.0))
    run.ends(zero)
    given = run.next(0)
    run.sweeper.sample(gpu(0, 300.0))
    run.sweeper.sample(gpu(0, 500.0))
    run.events.at = 1.0
    run.ends(given)
    run.ends(run.next(0))
    assert run.records[0].result.power_watts == 400.0


def test_each_rank_is_measured_against_the_bandwidth_of_its_own_device_and_the_first_stands_for_the_sweep():
    reports = [
        msgspec.structs.replace(
            ready(rank), device=f"cuda:{rank}", device_name=name, weight_read_bytes=10, kv_bytes_per_token=1
        )
        for rank, name in enumerate(["NVIDIA H200", "NVIDIA L4"])
    ]
    run = Swept(reports=reports)
    (began,) = run.events.of(protocol.SweepStarted)
    assert (began.bandwidth_bytes_per_second, began.bandwidth_source) == (4.8e12, "data sheet of NVIDIA H200")
    assert (began.plan, began.no_mbu) == (run.plan, None)
    assert run.sweeper._bandwidth() == {0: 4.8e12, 1: 3e11}
    assert run.whole_trial().result.mbu is not None


# --- trials that fail ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "outcome"), [("error", "failed"), ("out_of_memory", "out_of_memory")])
def test_a_batch_that_fails_ends_its_trial_once_the_other_rank_is_done_and_the_first_reason_stays(kind, outcome):
    run = Swept(repeats=2)
    run.warm_up()
    zero, one = run.next(0), run.next(1)
    run.fails(zero, kind, "the first reason")
    assert run.next(0) is None
    assert run.records == ()
    run.fails(one, "error", "another")
    (record,) = run.records
    assert (record.outcome, record.reason, record.result) == (outcome, "the first reason", None)
    if outcome == "failed":
        assert run.whole_trial().outcome == "measured", "only memory that ran out rules a size out"
    else:
        assert run.next(0) is None
        assert run.records[1].outcome == "skipped"


def test_sizes_from_the_one_on_that_did_not_fit_are_skipped_for_as_many_ranks_alone():
    run = Swept(batch_sizes=[1, 2, 4, 8], ranks=[1, 2], repeats=3, least_rounds=1, prompts=1000)
    tried = set()
    while run.sweeper.active:
        given = [one for one in (run.next(0), run.next(1)) if one is not None]
        if run.sweeper._current is None:
            continue
        now = run.sweeper._current.trial
        for one in given:
            if now.active_ranks == 1 and now.batch_size >= 4:
                tried.add(now.batch_size)
                run.fails(one, "out_of_memory", "no room")
            else:
                run.events.at += 1.0
                run.ends(one)
    found: dict[tuple[int, int], list[str]] = {}
    for record in run.records:
        found.setdefault((record.trial.active_ranks, record.trial.batch_size), []).append(record.outcome)
    assert len(run.records) == 24
    for ranks, size in ((1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (2, 8)):
        assert found[ranks, size] == ["measured"] * 3, (ranks, size)
    assert found[1, 4].count("out_of_memory") == 1
    assert found[1, 8].count("out_of_memory") <= 1
    reasons = {record.reason for record in run.records if record.outcome == "skipped"}
    assert reasons <= {"at a batch of 4 memory ran out", "at a batch of 8 memory ran out"}
    assert "at a batch of 4 memory ran out" in reasons
    assert run.settled == ["all trials are over"]


def test_a_sweep_that_is_resumed_knows_which_sizes_did_not_fit():
    trials = order_of(plan(batch_sizes=[2, 4, 8], ranks=[1]))
    four = next(trial for trial in trials if trial.batch_size == 4)
    before = [
        protocol.SweepStarted(plan=plan(batch_sizes=[2, 4, 8], ranks=[1]), trials=trials),
        protocol.TrialFinished(record=TrialRecord(trial=four, outcome="out_of_memory", reason="no room")),
    ]
    run = Swept(batch_sizes=[2, 4, 8], ranks=[1], before=before)
    run.whole_trial()
    while run.sweeper.active:
        run.next(0)
    assert {record.trial.batch_size: record.outcome for record in run.records} == {
        2: "measured",
        4: "out_of_memory",
        8: "skipped",
    }
    assert len(run.records) == 3


def test_the_loss_of_ranks_between_trials_costs_none():
    run = Swept()
    assert not run.sweeper.ranks_lost("it died")
    assert run.records == ()


def loses(run: Swept, *, cause: str = "it died") -> Trial:
    """The ranks are lost in the next trial."""
    assert run.next(0) is not None
    trial = run.sweeper._current.trial
    for rank in (0, 1):
        run.scheduler.lose(rank)
    assert run.sweeper.ranks_lost(cause)
    return trial


def test_ranks_that_are_lost_fail_their_trial_and_a_second_loss_rules_out_the_second_smallest_size():
    run = Swept(batch_sizes=[1, 2, 4, 8], ranks=[1], prompts=1000, repeats=2)
    lost = [loses(run), loses(run)]
    assert [(record.trial, record.outcome, record.reason) for record in run.records] == [
        (trial, "failed", "ranks were lost in it: it died") for trial in lost
    ]
    wall = max(trial.batch_size for trial in lost)
    assert run.sweeper._walls == {1: (wall, "ranks were lost twice: it died")}
    while run.sweeper.active:
        for given in list(run.scheduler.in_flight.values()) or [run.next(0)]:
            if given is not None:
                run.ends(given)
    for record in run.records[2:]:
        assert record.outcome == ("skipped" if record.trial.batch_size >= wall else "measured")
        if record.outcome == "skipped":
            assert record.reason == f"at a batch of {wall} ranks were lost twice: it died"


def test_losses_with_other_numbers_of_ranks_are_counted_apart():
    run = Swept(batch_sizes=[1, 2], ranks=[1, 2], repeats=4, prompts=1000)
    seen: set[int] = set()
    while seen != {1, 2}:
        run.next(0)
        now = run.sweeper._current.trial
        if now.active_ranks in seen:
            run.ends(next(iter(run.scheduler.in_flight.values())))
            run.whole_trial()
            continue
        for rank in (0, 1):
            run.scheduler.lose(rank)
        run.sweeper.ranks_lost("it died")
        seen.add(now.active_ranks)
    assert run.sweeper._walls == {}


def test_a_wall_is_moved_to_a_smaller_size_and_never_to_a_larger():
    run = Swept()
    trial = Trial(number=1, repeat=1, active_ranks=1, batch_size=8)
    run.sweeper._hit_wall(trial, "first")
    run.sweeper._hit_wall(msgspec.structs.replace(trial, batch_size=8), "the same")
    run.sweeper._hit_wall(msgspec.structs.replace(trial, batch_size=16), "larger")
    assert run.sweeper._walls == {1: (8, "first")}
    run.sweeper._hit_wall(msgspec.structs.replace(trial, batch_size=4), "smaller")
    run.sweeper._hit_wall(msgspec.structs.replace(trial, active_ranks=2), "others")
    assert run.sweeper._walls == {1: (4, "smaller"), 2: (8, "others")}


def test_only_memory_that_ran_out_is_a_wall_of_a_sweep_that_is_resumed():
    trials = order_of(plan(batch_sizes=[2, 4, 8], ranks=[1]))
    eight = next(trial for trial in trials if trial.batch_size == 8)
    before = [
        protocol.SweepStarted(plan=plan(batch_sizes=[2, 4, 8], ranks=[1]), trials=trials),
        protocol.TrialFinished(record=TrialRecord(trial=eight, outcome="skipped", reason="ranks were lost twice")),
    ]
    assert Swept(batch_sizes=[2, 4, 8], ranks=[1], before=before).sweeper._walls == {}


# --- ends ---------------------------------------------------------------------------------------


def test_a_sweep_that_is_ended_gives_back_what_its_trial_has_in_stock():
    run = Swept(outputs=True)
    run.warm_up()
    given = run.next(0)
    assert run.scheduler.drawable == PROMPTS - 8
    run.sweeper.settle("by hand")
    assert not run.sweeper.active
    assert run.settled == ["by hand"]
    assert run.scheduler.drawable == PROMPTS - 2, "all but the batch in hand"
    run.sweeper.batch_finished(protocol.BatchFinished(rank=0, batch=given.batch, result=result(2)))
    assert run.records == (), "its trial is not closed"


def test_a_sweep_that_keeps_answers_hands_each_prompt_out_once_and_ends_when_too_few_are_left():
    run = Swept(outputs=True, repeats=9, prompts=20)
    while run.sweeper.active:
        given = [one for one in (run.next(0), run.next(1)) if one is not None]
        for one in given:
            assert one.kept == one.measured
            run.ends(one)
    assert len(run.records) == 2
    assert run.settled == ["the 4 prompts left are too few for trial 3"]
    assert run.scheduler.unsettled == run.scheduler.drawable == 4


def test_a_trial_whose_prompts_run_out_ends_with_the_rounds_that_there_were():
    run = Swept(outputs=True, least_seconds=1000.0, prompts=13)
    record = run.whole_trial()
    assert (record.outcome, record.result.rounds) == ("measured", 3)
    assert run.scheduler.drawable == 1


# --- where prompts come from --------------------------------------------------------------------


def stock(count: int, lengths=tuple(range(10)), *, by_length: bool = False, **changes) -> tuple[_Prompts, Scheduler]:
    scheduler = Scheduler(lengths, order="input", batch_size=4, active_ranks=1)
    prompts = _Prompts(scheduler, lengths, plan(**changes), by_length=by_length)
    assert prompts.stock_up(count)
    return prompts, scheduler


def test_a_sweep_without_answers_goes_through_the_prompts_in_a_random_order_over_and_over():
    prompts, scheduler = stock(14)
    first = prompts.take(10)
    assert sorted(first) == list(range(10))
    assert first != list(range(10))
    assert prompts.take(10) == first[:4]
    prompts.stock_up(8)
    assert prompts.take(8) == [*first[4:], *first[:2]]
    assert scheduler.drawable == 10
    again, _ = stock(10)
    assert again.take(10) == first, "the same plan, the same prompts"
    other, _ = stock(10, seed=5)
    assert other.take(10) != first


def test_of_a_large_file_a_sample_is_used(monkeypatch):
    monkeypatch.setattr(sweeper, "SAMPLE_PROMPTS", 3)
    prompts, _ = stock(9)
    assert len(set(prompts.take(9))) == 3


def test_prompts_of_a_trial_come_longest_first_in_a_run_that_has_them_so():
    prompts, _ = stock(6, by_length=True, outputs=True)
    assert prompts.take(3) == [5, 4, 3]
    assert prompts.for_warm_up(2) == [2, 1], "those stay in stock"
    assert prompts.take(5) == [2, 1, 0]
    other, _ = stock(6, outputs=True)
    assert other.take(3) == [0, 1, 2]


def test_what_was_not_handed_out_goes_back_in_front_if_answers_are_kept_and_is_forgotten_if_not():
    prompts, scheduler = stock(6, outputs=True)
    prompts.take(2)
    prompts.give_back()
    assert prompts.take(9) == []
    assert scheduler.draw(3) == [2, 3, 4]
    prompts, scheduler = stock(6)
    prompts.give_back()
    assert (prompts.take(9), scheduler.drawable) == ([], 10)


def test_answers_that_are_kept_need_as_many_prompts_as_are_left():
    prompts, scheduler = stock(4, outputs=True)
    assert not prompts.stock_up(7)
    assert scheduler.drawable == 6, "nothing was drawn"
    assert prompts.stock_up(6)


def test_prompts_that_are_tried_alone_are_none_for_a_trial():
    prompts, scheduler = stock(0, outputs=True)
    scheduler.fail(scheduler.assign(0, scheduler.draw(3)).batch)
    assert (scheduler.pending, scheduler.drawable) == (10, 7)
    assert not prompts.stock_up(8)
    assert prompts.stock_up(7)
