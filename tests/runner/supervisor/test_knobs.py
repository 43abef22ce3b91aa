"""What turning a knob leads to, one call at a time: events, bounds, what is left alone. On a clock of the test's."""

import msgspec
import pytest

from rankdeck.runner import protocol
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE, RunConfig
from rankdeck.runner.protocol.records import DeviceSample
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.scheduling.batch_size_search import Choice
from rankdeck.runner.scheduling.scheduler import Scheduler
from rankdeck.runner.supervisor.knobs import KnobControls, _free_bytes
from tests.runner.supervisor.clocked import ClockedEvents
from tests.runner.supervisor.in_process import ready, result

PLAN = SweepPlan(batch_sizes=[2], ranks=[2], repeats=1, least_rounds=1, least_seconds=0.0)


class Run:
    """The knobs of a run on two ranks, which are ready unless `begun` is False."""

    def __init__(self, *, prompts: int = 1000, begun: bool = True, reports=None, lengths=None, **settings) -> None:
        values = {"prompts": "p", "ranks": 2, "batch_size": 4, "max_new_tokens": 10, **settings}
        self.config = RunConfig(**values)
        self.events = ClockedEvents(self.config, prompts)
        lengths = lengths or bytes(prompts)
        self.scheduler = Scheduler(
            lengths, order=self.config.order, batch_size=self.config.batch_size or 1, active_ranks=2
        )
        self.controls = KnobControls(self.config, self.scheduler, lengths, self.events)  # type: ignore[arg-type]
        if begun:
            self.events.ready(*(reports or (ready(0), ready(1))))
            self.controls.begin()
            self.events.seen.clear()

    def obey(self, *commands: protocol.Command) -> list[str]:
        """Do what is asked for; returns the names of the events that came of it."""
        self.events.seen.clear()
        for command in commands:
            self.controls.obey(command)
        return [type(event).__name__ for event in self.events.seen]

    def batch(self, rank: int, seconds: float, *, rows: int | None = None) -> None:
        """A rank does a batch in so many seconds."""
        given = self.controls.next_batch(rank)
        assert given is not None
        rows = len(given.indices)
        self.events.emit(
            protocol.BatchStarted(rank=rank, batch=given.batch, rows=rows, kept=given.kept, warm_up=given.warm_up)
        )
        self.events.at += seconds
        self.scheduler.finish(given.batch)
        done = protocol.BatchFinished(rank=rank, batch=given.batch, result=result(rows))
        self.events.emit(done)
        self.controls.batch_finished(done)

    @property
    def sizes(self) -> list[tuple[int, bool, str]]:
        return [(one.batch_size, one.auto, one.reason) for one in self.events.of(protocol.BatchSizeChanged)]

    @property
    def pauses(self) -> list[tuple[str, bool] | str]:
        kinds = protocol.Paused | protocol.Resumed
        return [
            (one.reason, one.asked) if isinstance(one, protocol.Paused) else "resumed"
            for one in self.events.seen
            if isinstance(one, kinds)
        ]


# --- batch size ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "size"),
    [(-7, 1), (0, 1), (1, 1), (5, 5), (MAX_BATCH_SIZE, MAX_BATCH_SIZE), (MAX_BATCH_SIZE + 1, MAX_BATCH_SIZE)],
)
@pytest.mark.parametrize("begun", [True, False])
def test_a_batch_size_is_brought_into_its_range_before_and_after_the_ranks_are_ready(asked, size, begun):
    run = Run(begun=begun)
    run.obey(protocol.SetBatchSize(batch_size=asked))
    if not begun:
        assert (run.sizes, run.scheduler.batch_size) == ([], 4), "nothing is told before it counts"
        run.controls.begin()
    assert run.sizes == [(size, False, "as asked for")]
    assert run.scheduler.batch_size == run.events.state.batch_size == size


def test_a_size_that_holds_already_is_no_change_unless_it_was_being_searched_for():
    run = Run()
    assert run.obey(protocol.SetBatchSize(batch_size=4)) == []
    searched = Run(batch_size=None)
    size = searched.scheduler.batch_size
    assert searched.events.state.auto
    assert searched.obey(protocol.SetBatchSize(batch_size=size)) == ["BatchSizeChanged"]
    assert searched.sizes == [(size, False, "as asked for")]
    assert not searched.events.state.auto


def test_a_search_that_is_asked_for_before_the_ranks_are_ready_begins_with_them():
    run = Run(begun=False)
    run.obey(protocol.SetBatchSize(batch_size=None))
    run.events.ready(ready(0), ready(1))
    run.controls.begin()
    assert run.events.state.auto
    assert run.sizes[0][1] is True


def test_a_search_that_is_asked_for_in_a_run_begins_at_once():
    run = Run()
    assert run.obey(protocol.SetBatchSize(batch_size=None)) == ["BatchSizeChanged"]
    assert run.events.state.auto


def test_the_first_size_is_set_once_and_not_again_after_a_relaunch():
    run = Run()
    run.obey(protocol.SetBatchSize(batch_size=7))
    run.controls.begin()
    assert run.scheduler.batch_size == 7


def test_the_search_learns_once_every_rank_has_been_measured_for_a_second():
    run = Run(batch_size=None, prompts=100_000)
    first = run.scheduler.batch_size
    run.batch(0, 1.0)
    assert run.scheduler.batch_size == first, "rank 1 has done nothing"
    run.batch(1, 0.99)
    assert run.scheduler.batch_size == first, "0.99 s tell too little"
    run.batch(1, 0.01)
    assert run.scheduler.batch_size == 2 * first


def test_a_size_that_a_person_set_is_not_changed_by_the_search_that_was_before():
    run = Run(batch_size=None, prompts=100_000)
    run.obey(protocol.SetBatchSize(batch_size=10))
    for rank in (0, 1, 0, 1):
        run.batch(rank, 5.0)
    assert run.scheduler.batch_size == 10
    run.controls.out_of_memory(0, 10)
    assert run.scheduler.batch_size == 10, "nor is it lowered for all: one rank is capped"


def test_a_rank_that_ran_out_of_memory_is_told_of_with_its_cap_and_one_without_a_cap_is_not():
    run = Run()
    run.controls.out_of_memory(0, 4)
    assert run.events.seen == []
    run.scheduler.cap(1, 4)
    run.controls.out_of_memory(1, 4)
    (capped,) = run.events.seen
    assert (type(capped), capped.rank, capped.batch_size) == (protocol.RankCapped, 1, 2)


def test_memory_that_runs_out_in_a_search_ends_it_at_half_or_at_the_best_that_was_measured():
    run = Run(batch_size=None, prompts=100_000)
    first = run.scheduler.batch_size
    run.controls.out_of_memory(0, first)
    assert run.sizes == [(first // 2, False, f"settled at {first // 2}: a batch of {first} ran out of memory")]
    run = Run(batch_size=None, prompts=100_000)
    for rank in (0, 1):
        run.batch(rank, 2.0)
    assert run.scheduler.batch_size == 2 * first
    run.controls.out_of_memory(0, 2 * first)
    assert run.scheduler.batch_size == first
    run.controls.out_of_memory(1, 2 * first)
    assert run.scheduler.batch_size == first, "the other rank's failure of the same size changes nothing"


@pytest.mark.parametrize("tried", [True, False])
def test_a_settled_size_is_lowered_for_all_only_if_nobody_has_done_a_batch_of_it_and_then_once(tried):
    run = Run(batch_size=None, prompts=25)
    assert (run.scheduler.batch_size, run.events.state.auto) == (13, False)
    if tried:
        run.batch(0, 1.0)
    run.controls.out_of_memory(0, 13)
    assert run.scheduler.batch_size == (13 if tried else 6)
    run.controls.out_of_memory(1, 12)
    assert run.scheduler.batch_size == (13 if tried else 6)
    assert len(run.sizes) == (0 if tried else 1)


def test_a_single_row_that_does_not_fit_leaves_a_batch_of_one():
    run = Run(batch_size=None, prompts=100_000)
    run.controls.out_of_memory(0, 1)
    assert run.scheduler.batch_size == 1


# --- what is known of memory before anything ran -------------------------------------------------


def on_gpu(rank: int, **facts) -> protocol.RankReady:
    return msgspec.structs.replace(ready(rank), device=f"cuda:{rank}", **facts)


def test_a_rank_has_what_it_may_still_take_or_its_part_of_what_is_free_on_its_device():
    one, two = on_gpu(0, device_uuid="a", memory_free_bytes=100), on_gpu(1, device_uuid="a", memory_free_bytes=90)
    assert _free_bytes(one, [one, two]) == 50
    alone = on_gpu(1, device_uuid="b", memory_free_bytes=90)
    assert _free_bytes(one, [one, alone]) == 100
    held = on_gpu(0, device_uuid="a", memory_free_bytes=100, memory_left_bytes=30)
    assert _free_bytes(held, [held, two]) == 30
    assert _free_bytes(on_gpu(0), [on_gpu(0)]) is None
    nameless = [on_gpu(0, memory_free_bytes=100), on_gpu(1, memory_free_bytes=100)]
    assert _free_bytes(nameless[0], nameless) == 100, "without a UUID the device's own name counts"


def test_what_a_search_begins_with_is_what_the_ranks_and_the_prompts_say():
    reports = [
        on_gpu(0, memory_free_bytes=1000, kv_bytes_per_token=7),
        on_gpu(1, memory_free_bytes=600, kv_bytes_per_token=8),
    ]
    run = Run(reports=reports, lengths=[30] * 99 + [60])
    run.scheduler.settle(0)
    known = run.controls._known()
    assert (known.prompts, known.ranks, known.on_gpu) == (run.scheduler.pending, 2, True)
    assert known.tokens_per_row == 10 + 60 // 3
    assert (known.memory_free_bytes, known.kv_bytes_per_token) == (600, 7)
    plain = Run().controls._known()
    assert (plain.on_gpu, plain.memory_free_bytes, plain.kv_bytes_per_token) == (False, None, None)


# --- active ranks -------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "ranks"), [(-1, 1), (0, 1), (1, 1)])
def test_active_ranks_are_brought_into_their_range(asked, ranks):
    run = Run()
    assert run.obey(protocol.SetActiveRanks(active_ranks=asked)) == ["ActiveRanksChanged"]
    assert run.scheduler.active_ranks == run.events.state.active_ranks == ranks
    run.obey(protocol.SetActiveRanks(active_ranks=99))
    assert run.scheduler.active_ranks == run.events.state.active_ranks == 2
    assert run.obey(protocol.SetActiveRanks(active_ranks=2)) == [], "as many as there are"


# --- turns that would do nothing ------------------------------------------------------------------


TURNS = [
    protocol.SetBatchSize(batch_size=8),
    protocol.SetBatchSize(batch_size=2),
    protocol.SetBatchSize(batch_size=None),
    protocol.SetActiveRanks(active_ranks=1),
]


@pytest.mark.parametrize("engine", ["static", "continuous"])
@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_a_turn_that_no_prompt_is_left_for_is_refused_and_leaves_no_mark_and_no_period(turn, engine):
    run = Run(prompts=8, reports=(ready(0, engine), ready(1, engine)))
    for rank in (0, 1):
        given = run.controls.next_batch(rank)
        run.events.emit(protocol.BatchStarted(rank=rank, batch=given.batch, rows=len(given.indices)))
    before, knobs = run.events.state, (run.scheduler.batch_size, run.scheduler.active_ranks)
    assert run.obey(turn) == ["TurnRefused"]
    after = run.events.state
    assert (after.marks, after.periods, after.batch_size, after.active_ranks, after.auto) == (
        before.marks, before.periods, before.batch_size, before.active_ranks, before.auto
    )  # fmt: skip
    assert (run.scheduler.batch_size, run.scheduler.active_ranks) == knobs
    wanted = "another batch size" if isinstance(turn, protocol.SetBatchSize) else "another number of ranks"
    assert after.refusal.reason == f"no prompts left for {wanted}: the last 8 are in flight"


def test_the_next_turn_that_is_done_ends_a_refusal():
    run = Run()
    run.obey(protocol.SetActiveRanks(active_ranks=3))
    assert run.events.state.refusal.reason == "all 2 ranks are already active"
    run.obey(protocol.SetBatchSize(batch_size=8))
    assert run.events.state.refusal is None


def test_what_holds_already_is_neither_done_nor_refused_also_with_no_prompt_left():
    run = Run(prompts=8)
    assert run.controls.next_batch(0)
    assert run.controls.next_batch(1)
    assert run.obey(protocol.SetBatchSize(batch_size=4), protocol.SetActiveRanks(active_ranks=2)) == []


@pytest.mark.parametrize(
    ("size", "ranks", "turn", "reason"),
    [
        (1, 2, protocol.SetBatchSize(batch_size=0), "batch size is already 1"),
        (MAX_BATCH_SIZE, 2, protocol.SetBatchSize(batch_size=MAX_BATCH_SIZE + 1), "is the largest batch size"),
        (4, 1, protocol.SetActiveRanks(active_ranks=0), "one rank stays active"),
        (4, 2, protocol.SetActiveRanks(active_ranks=3), "all 2 ranks are already active"),
        (600, 2, protocol.SetBatchSize(batch_size=700), "the 1,000 prompts left already fit in one round"),
    ],
)
def test_a_knob_at_its_end_says_so(size, ranks, turn, reason):
    run = Run(batch_size=size)
    run.obey(protocol.SetActiveRanks(active_ranks=ranks))
    assert run.obey(turn) == ["TurnRefused"]
    assert reason in run.events.state.refusal.reason


def test_a_run_that_is_stopping_hands_out_no_more_and_takes_no_turn():
    run = Run()
    run.events.emit(protocol.Stopping(now=False))
    assert run.obey(*TURNS) == ["TurnRefused"] * 4
    assert run.events.state.refusal.reason == "the run is stopping: no more batches are handed out"


def test_a_smaller_size_on_the_way_to_one_that_changes_something_is_let_through():
    run = Run(batch_size=600)
    assert run.obey(protocol.SetBatchSize(batch_size=512)) == ["BatchSizeChanged"], "500 prompts a rank, as before"


def test_with_a_larger_size_rows_come_at_once_on_a_continuous_rank_so_it_is_never_one_round():
    run = Run(batch_size=600, reports=(ready(0, "continuous"), ready(1, "continuous")))
    assert run.obey(protocol.SetBatchSize(batch_size=700)) == ["BatchSizeChanged"]


def test_with_other_ranks_a_search_forgets_what_it_measured_but_not_what_fits():
    gpus = [on_gpu(rank, memory_free_bytes=10**9, kv_bytes_per_token=1000) for rank in (0, 1)]
    run = Run(batch_size=None, prompts=100_000, reports=gpus)
    limit = run.controls._search.limit
    assert limit is not None
    run.controls._search.measured[3] = 5.0
    run.obey(protocol.SetActiveRanks(active_ranks=1))
    search = run.controls._search
    assert (search.measured, search.limit, search.known.ranks) == ({}, limit, 1)
    assert search.limit_reason == f"memory allows about {limit} rows"


# --- pauses -------------------------------------------------------------------------------------


def test_a_pause_is_told_once_and_so_is_its_end():
    run = Run()
    assert run.obey(protocol.Resume()) == []
    assert not run.controls.paused
    assert run.obey(protocol.Pause(), protocol.Pause()) == ["Paused"]
    assert run.pauses == [("asked for", True)]
    assert run.controls.paused
    assert run.obey(protocol.Resume(), protocol.Resume()) == ["Resumed"]
    assert not run.controls.paused


def test_trouble_is_told_when_it_comes_when_it_is_another_and_when_it_is_gone():
    run = Run()
    for reason in (None, "full", "full", "gone", None, None):
        run.controls.set_trouble(reason)
        assert run.controls.paused is (reason is not None)
    assert run.pauses == [("full", False), ("gone", False), "resumed"]


def test_a_pause_that_is_asked_for_and_taken_back_in_trouble_is_not_told_while_that_lasts():
    run = Run()
    run.controls.set_trouble("full")
    assert run.obey(protocol.Pause(), protocol.Resume()) == []
    assert run.controls.paused
    run.controls.set_trouble(None)
    assert run.pauses == ["resumed"]
    run.controls.set_trouble("full")
    run.obey(protocol.Pause())
    run.controls.set_trouble(None)
    assert run.pauses == [("asked for", True)]


@pytest.mark.parametrize("asked", [True, False])
def test_a_pause_of_either_kind_spoils_the_trial_under_way(asked):
    run = Run(sweep=PLAN)
    run.controls.next_batch(0)
    if asked:
        run.obey(protocol.Pause())
    else:
        run.controls.set_trouble("full")
    assert run.controls._sweeper._current.again


# --- sweeps -------------------------------------------------------------------------------------


def sweep_all(run: Run, *, seconds: float = 1.0) -> None:
    """Do the trials to the end, rank after rank."""
    for _ in range(1000):
        for rank in (0, 1):
            if run.controls.sweeping and rank < max(1, run.scheduler.active_ranks):
                given = run.controls.next_batch(rank)
                if given is not None:
                    rows = len(given.indices)
                    run.events.emit(
                        protocol.BatchStarted(
                            rank=rank, batch=given.batch, rows=rows, kept=given.kept, warm_up=given.warm_up
                        )
                    )
                    run.events.at += seconds
                    if given.kept:
                        for index in given.indices:
                            run.scheduler.settle(index)
                    run.scheduler.finish(given.batch)
                    done = protocol.BatchFinished(rank=rank, batch=given.batch, result=result(rows))
                    run.events.emit(done)
                    run.controls.batch_finished(done)


def test_a_sweep_begins_when_the_ranks_are_ready_and_leaves_the_knobs_to_its_trials():
    run = Run(sweep=PLAN, begun=False)
    assert run.controls.sweeping, "it is still to come"
    run.events.ready(ready(0), ready(1))
    run.controls.begin()
    assert run.events.of(protocol.SweepStarted)
    assert run.sizes == []
    run.controls.next_batch(0)
    asked = (protocol.SetBatchSize(batch_size=3), protocol.SetBatchSize(batch_size=None))
    assert run.obey(*asked, protocol.SetActiveRanks(active_ranks=1)) == ["TurnRefused"] * 3
    assert {one.reason for one in run.events.seen} == {"the sweep sets batch size and active ranks"}
    assert (run.scheduler.batch_size, run.scheduler.active_ranks) == (2, 2)


def test_a_sweep_that_keeps_no_answers_leaves_no_work_and_hands_out_nothing_after_it():
    run = Run(sweep=PLAN)
    assert run.controls.work_left
    assert run.controls.next_rows(0, {}) is None, "trials are measured"
    sweep_all(run)
    assert run.scheduler.unsettled == 1000
    assert not run.controls.work_left
    assert run.controls.next_batch(0) is None
    assert run.controls.next_rows(0, {}) is None
    assert not run.events.of(protocol.BatchSizeChanged)


def test_after_a_sweep_that_keeps_answers_the_rest_is_done_in_the_runs_order_at_the_best():
    plan = msgspec.structs.replace(PLAN, outputs=True, batch_sizes=[2, 4], ranks=[1])
    run = Run(sweep=plan, order="length", lengths=[number % 50 for number in range(100)], prompts=100)
    sweep_all(run)
    assert run.scheduler.active_ranks == 1
    (size,) = run.sizes
    rates = [record.result.tokens_per_second for record in run.events.state.sweep.records]
    assert size == (4, False, f"best of the sweep, {max(rates):.0f} tok/s")
    assert run.scheduler.batch_size == 4
    given = run.controls.next_batch(0)
    assert [run.controls._lengths[index] for index in given.indices] == [49, 49, 48, 48]
    assert run.controls.next_batch(1) is None


def test_a_best_size_within_the_noise_is_said_to_be_so():
    plan = msgspec.structs.replace(PLAN, outputs=True, batch_sizes=[2, 4], ranks=[2], repeats=3)
    run = Run(sweep=plan)
    for _ in range(1000):
        if run.controls.sweeping:
            sweep_all_at_equal_rates(run)
    (size,) = run.sizes
    assert size[2].startswith("best of the sweep within its noise, ")


def sweep_all_at_equal_rates(run: Run) -> None:
    given = [one for one in (run.controls.next_batch(0), run.controls.next_batch(1)) if one is not None]
    for one in given:
        rows = len(one.indices)
        run.events.emit(
            protocol.BatchStarted(rank=one.rank, batch=one.batch, rows=rows, kept=one.kept, warm_up=one.warm_up)
        )
    for one in given:
        run.events.at += len(one.indices) * (1.0 + 0.01 * (one.batch % 5))
        for index in one.indices if one.kept else ():
            run.scheduler.settle(index)
        run.scheduler.finish(one.batch)
        done = protocol.BatchFinished(rank=one.rank, batch=one.batch, result=result(len(one.indices)))
        run.events.emit(done)
        run.controls.batch_finished(done)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("loading", "no sweep is started: not all ranks are ready"),
        ("sweeping", "no sweep is started: another is at work"),
        ("ready", "no sweep is started: --ranks: 3 are to be measured, and the run has 2"),
    ],
)
def test_a_sweep_that_cannot_be_is_not_begun_and_the_log_says_why(state, said):
    run = Run(begun=state != "loading", sweep=PLAN if state == "sweeping" else None)
    plan = PLAN if state != "ready" else msgspec.structs.replace(PLAN, ranks=[3])
    assert run.obey(protocol.StartSweep(plan=plan)) == ["LogLine"]
    (line,) = run.events.seen
    assert line.source == "supervisor"
    assert line.text.startswith(said.split(": --")[0])
    assert said.split(": ")[-1] in line.text


def test_to_end_a_sweep_where_there_is_none_does_nothing():
    run = Run()
    assert run.obey(protocol.StartSweep(plan=None)) == []


def test_a_sweep_in_a_run_ends_the_search_and_one_ended_by_hand_puts_both_knobs_back():
    run = Run(batch_size=4)
    run.obey(protocol.SetActiveRanks(active_ranks=1), protocol.SetBatchSize(batch_size=6))
    run.obey(protocol.StartSweep(plan=PLAN))
    assert run.controls.sweeping
    run.controls.next_batch(0)
    assert run.scheduler.active_ranks == 2
    run.obey(protocol.StartSweep(plan=None))
    assert run.events.of(protocol.SweepSettled)[0].reason == "by hand"
    assert [one.active_ranks for one in run.events.of(protocol.ActiveRanksChanged)] == [1]
    assert run.sizes == [(6, False, "as before the sweep")]
    assert (run.scheduler.batch_size, run.scheduler.active_ranks) == (6, 1)


def test_a_search_is_over_once_a_sweep_begins_and_one_that_is_ended_by_hand_begins_it_anew():
    run = Run(batch_size=None, prompts=100_000)
    size = run.scheduler.batch_size
    run.obey(protocol.StartSweep(plan=PLAN))
    assert run.controls._search is None
    run.controls.next_batch(0)
    run.obey(protocol.StartSweep(plan=None))
    assert run.controls._search is not None
    assert [one[:2] for one in run.sizes] == [(size, True)]


def test_a_job_is_swept_without_its_answers_and_goes_on_with_them():
    run = Run()
    run.obey(protocol.StartSweep(plan=PLAN))
    sweep_all(run)
    assert run.controls.work_left
    assert run.sizes[0][0] == 2
    assert run.controls.next_batch(0).kept


def test_what_happens_outside_a_sweep_is_nothing_to_its_trials():
    run = Run(sweep=PLAN)
    assert not run.controls.ranks_lost("it died"), "no trial had begun"
    run.controls.next_batch(0)
    assert run.controls.ranks_lost("it died")
    plain = Run()
    assert not plain.controls.ranks_lost("it died")
    failed = protocol.BatchFailed(rank=0, batch=1, kind="error", error="e")
    plain.controls.trial_failed(failed)
    plain.controls.sample([DeviceSample(index=0, uuid="GPU-u", name="n")])
    assert plain.events.seen == []


def test_a_failed_batch_fails_its_trial_and_the_last_one_ends_the_sweep_for_the_run():
    run = Run(sweep=msgspec.structs.replace(PLAN, outputs=True, ranks=[1]))
    given = run.controls.next_batch(0)
    run.scheduler.finish(given.batch)
    run.controls.trial_failed(protocol.BatchFailed(rank=0, batch=given.batch, kind="out_of_memory", error="no room"))
    (record,) = run.events.state.sweep.records
    assert (record.outcome, record.reason) == ("out_of_memory", "no room")
    assert not run.controls.sweeping
    assert run.sizes == [(4, False, "as before the sweep")]
    assert run.scheduler.active_ranks == 2


def test_samples_of_gpus_reach_the_trial():
    gpu = on_gpu(0, device_uuid="u")
    run = Run(sweep=msgspec.structs.replace(PLAN, ranks=[1]), reports=[gpu, ready(1)])
    run.batch(0, 1.0)
    given = run.controls.next_batch(0)
    run.controls.sample([DeviceSample(index=0, uuid="GPU-u", name="n", busy_percent=70.0)])
    run.events.emit(protocol.BatchStarted(rank=0, batch=given.batch, rows=2, kept=False))
    run.events.at += 1.0
    run.scheduler.finish(given.batch)
    done = protocol.BatchFinished(rank=0, batch=given.batch, result=result(2))
    run.events.emit(done)
    run.controls.batch_finished(done)
    assert run.events.state.sweep.records[0].result.busy_percent == 70.0


# --- what the search and the trials are told ----------------------------------------------------------


def learned(run: Run, monkeypatch) -> list[tuple]:
    """What the search is told of from now on; it stays where it is."""
    told: list[tuple] = []
    search = run.controls._search
    assert search is not None
    monkeypatch.setattr(search, "learn", lambda *figures: told.append(figures) or Choice(figures[0], "r", False))
    return told


def test_the_search_learns_the_size_of_the_period_its_warm_rate_its_memory_and_what_no_rank_has(monkeypatch):
    run = Run(batch_size=None, prompts=100_000)
    told, size = learned(run, monkeypatch), run.scheduler.batch_size
    run.batch(0, 2.0)
    held = run.controls.next_batch(0)
    given = run.controls.next_batch(1)
    for one in (held, given):
        run.events.emit(protocol.BatchStarted(rank=one.rank, batch=one.batch, rows=size))
    run.events.at += 2.0
    run.scheduler.finish(given.batch)
    account = msgspec.structs.replace(result(size), peak_memory_bytes=77)
    done = protocol.BatchFinished(rank=1, batch=given.batch, result=account)
    run.events.emit(done)
    run.controls.batch_finished(done)
    rate = 2 * result(size).output_tokens / 2.0
    assert told == [(size, rate, 77, run.scheduler.pending)]
    assert run.scheduler.pending == run.scheduler.unsettled - size


def test_the_first_batches_on_a_gpu_teach_the_search_nothing(monkeypatch):
    run = Run(batch_size=None, prompts=100_000, reports=[on_gpu(0), on_gpu(1)])
    told = learned(run, monkeypatch)
    for rank in (0, 1):
        run.batch(rank, 5.0)
    assert told == []
    for rank in (0, 1):
        run.batch(rank, 5.0)
    assert len(told) == 1


def test_one_rank_on_a_gpu_makes_it_a_job_on_gpus():
    assert Run(reports=[ready(0), on_gpu(1)]).controls._known().on_gpu


def test_a_size_that_nobody_tried_is_lowered_for_all_though_another_was_tried():
    run = Run(batch_size=50, prompts=25)
    run.batch(0, 1.0)
    run.obey(protocol.SetBatchSize(batch_size=None))
    assert run.scheduler.batch_size == 13
    run.controls.out_of_memory(0, 13)
    assert run.scheduler.batch_size == 6


def test_a_search_that_has_settled_is_not_begun_anew_with_other_ranks():
    run = Run(batch_size=None, prompts=25)
    search = run.controls._search
    run.obey(protocol.SetActiveRanks(active_ranks=1))
    assert run.controls._search is search
    assert not run.events.state.auto


def test_in_a_sweep_a_rank_for_which_the_trial_has_nothing_gets_nothing_else():
    run = Run(sweep=msgspec.structs.replace(PLAN, ranks=[1], outputs=True))
    assert run.controls.next_batch(0).warm_up
    run.events.seen.clear()
    assert run.controls.next_batch(1) is None
    assert run.controls.next_batch(0) is None
    assert (run.events.seen, run.controls.sweeping) == ([], True)


@pytest.mark.parametrize("found", [True, False])
def test_after_a_sweep_a_period_of_its_own_begins_though_both_knobs_stay(found):
    plan = msgspec.structs.replace(PLAN, outputs=True, batch_sizes=[4])
    run = Run(sweep=plan, batch_size=4)
    if found:
        sweep_all(run)
    else:
        run.controls.next_batch(0)
        run.obey(protocol.StartSweep(plan=None))
    assert [one.active_ranks for one in run.events.of(protocol.ActiveRanksChanged)] == [2]
    period = run.events.state.periods[-1]
    assert (period.trial, period.batch_size, period.active_ranks, period.batches) == (False, 4, 2, 0)
    assert period.reason.startswith("best of the sweep" if found else "as before the sweep")


@pytest.mark.parametrize("order", ["length", "input"])
def test_trials_and_what_comes_after_them_have_the_order_of_the_run(order):
    lengths = [1, 5, 2, 4, 3] * 20
    run = Run(sweep=msgspec.structs.replace(PLAN, outputs=True), order=order, lengths=lengths, prompts=100)
    run.controls.next_batch(0)
    stock = [lengths[index] for index in run.controls._sweeper._prompts._stock]
    assert (stock == sorted(stock, reverse=True)) is (order == "length")
    run.obey(protocol.StartSweep(plan=None))
    rest = [lengths[index] for index in run.scheduler.draw(100)[4:]]
    assert (rest == sorted(rest, reverse=True)) is (order == "length")


def test_an_account_of_rows_from_before_a_sweep_is_no_round_of_a_trial():
    run = Run(sweep=msgspec.structs.replace(PLAN, ranks=[1]))
    run.batch(0, 1.0)
    given = run.controls.next_batch(0)
    assert given.measured
    run.controls.batch_finished(protocol.AccountClosed(rank=0, batch=given.batch, result=result(2)))
    assert run.controls._sweeper._current.finished == {0: 0}


def test_nothing_is_learned_of_a_search_before_there_is_a_period_or_after_it_has_settled(monkeypatch):
    run = Run(batch_size=None, prompts=25)
    told = learned(run, monkeypatch)
    run.batch(0, 5.0)
    run.batch(1, 5.0)
    assert told == []
