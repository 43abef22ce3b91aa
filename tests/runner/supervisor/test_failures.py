"""What becomes of prompts whose batch failed. In this process, without ranks."""

from rankdeck.runner import protocol, run_directory
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from tests.runner.supervisor.in_process import Launch, outputs_of, result


def test_rows_that_ran_out_of_memory_together_are_the_next_ones_again_in_their_order(tmp_path):
    launch = Launch(tmp_path, prompts=60, engine="continuous")
    rank, _ = launch.connect_ready("continuous")
    (first,) = rank.peer.work
    assert [prompt.index for prompt in first.prompts] == [0, 1, 2, 3]
    launch.say(rank, outputs_of(first, 0)[0])
    assert [prompt.index for prompt in rank.peer.work[1].prompts] == [8]
    launch.say(rank, protocol.BatchFailed(rank=0, batch=first.batch, kind="out_of_memory", error="no room"))
    assert [prompt.index for prompt in rank.peer.work[2].prompts] == [1, 2]


def test_a_prompt_that_does_not_fit_even_alone_is_given_up_and_its_rank_goes_on(tmp_path):
    launch = Launch(tmp_path, prompts=4, ranks=1, engine="continuous")
    (rank,) = launch.connect_ready("continuous")
    (first,) = rank.peer.work
    launch.say(rank, protocol.BatchFailed(rank=0, batch=first.batch, kind="error", error="one of them"))
    alone = rank.peer.work[1]
    assert [prompt.index for prompt in alone.prompts] == [0]
    launch.say(rank, protocol.BatchFailed(rank=0, batch=alone.batch, kind="out_of_memory", error="no room"))
    assert [(record.index, record.error) for record in launch.records()] == [(0, "no room")]
    assert [prompt.index for prompt in rank.peer.work[2].prompts] == [1]


def records(launch: Launch) -> list[tuple[int, str | None, int | None, int | None]]:
    return [(record.index, record.error, record.rank, record.batch) for record in launch.records()]


def failed(rank: int, batch: int, kind: str = "error", error: str = "no such word") -> protocol.BatchFailed:
    return protocol.BatchFailed(rank=rank, batch=batch, kind=kind, error=error)


def indices(rank) -> list[list[int]]:
    return [[prompt.index for prompt in work.prompts] for work in rank.peer.work]


def events(launch: Launch, directory, kind: type) -> list:
    launch.events.journal.flush()
    return [event for event in run_directory.read_events(directory) if isinstance(event, kind)]


def test_a_batch_that_raises_is_told_and_each_of_its_prompts_tried_alone_at_the_end(tmp_path):
    launch = Launch(tmp_path, prompts=4, ranks=1, batch_size=3, order="input")
    (rank,) = launch.connect_ready()
    first = rank.peer.work[0]
    launch.say(rank, failed(0, first.batch))
    said = [(line.source, line.text) for line in launch.state.log]
    assert ("rank 0", f"batch {first.batch} failed: no such word") in said
    (told,) = events(launch, tmp_path, protocol.BatchFailed)
    assert (told.rank, told.batch, told.kind, told.error) == (0, first.batch, "error", "no such word")
    assert launch.scheduler.caps == {}
    while not launch.pool.leaving:
        work = rank.peer.work[-1]
        if [prompt.index for prompt in work.prompts] == [1]:
            launch.say(rank, failed(0, work.batch, error="this one"))
            alone = work.batch
        else:
            launch.answer(rank, work)
    assert [error for _, error, _, _ in records(launch)] == [None, "this one", None, None]
    assert records(launch)[1] == (1, "this one", 0, alone)
    assert launch.state.failed == 1


def test_a_batch_that_ran_out_of_memory_is_halved_for_its_rank_and_told(tmp_path):
    launch = Launch(tmp_path, prompts=32, batch_size=8, order="input")
    zero, one = launch.connect_ready()
    launch.say(zero, failed(0, zero.peer.work[0].batch, "out_of_memory", "no room"))
    (capped,) = events(launch, tmp_path, protocol.RankCapped)
    assert (capped.rank, capped.batch_size) == (0, 4)
    assert indices(zero)[1] == [0, 1, 2, 3]
    launch.answer(one, one.peer.work[0])
    assert indices(one)[1] == [4, 5, 6, 7]
    assert launch.scheduler.batch_size == 8, "the others go on as they were"


def test_a_prompt_that_does_not_fit_alone_is_given_up_with_the_error_of_its_batch(tmp_path):
    launch = Launch(tmp_path, prompts=2, ranks=1, batch_size=1)
    (rank,) = launch.connect_ready()
    batch = rank.peer.work[0].batch
    launch.say(rank, failed(0, batch, "out_of_memory", "no room"))
    assert records(launch) == [(rank.peer.work[0].prompts[0].index, "no room", 0, batch)]


def test_a_trial_that_ran_out_of_memory_caps_no_rank_and_keeps_its_prompts(tmp_path):
    plan = SweepPlan(batch_sizes=[4], ranks=[1], repeats=1, least_rounds=1, least_seconds=0.0, outputs=True)
    launch = Launch(tmp_path, prompts=12, ranks=1, sweep=plan)
    (rank,) = launch.connect_ready()
    launch.say(rank, protocol.BatchFinished(rank=0, batch=rank.peer.work[0].batch, result=result(4)))
    launch.say(rank, failed(0, rank.peer.work[1].batch, "out_of_memory", "no room"))
    assert (launch.scheduler.caps, launch.scheduler.unsettled) == ({}, 12)
    assert events(launch, tmp_path, protocol.RankCapped) == []
    (record,) = launch.state.sweep.records
    assert (record.outcome, record.reason) == ("out_of_memory", "no room")
    launch.answer_all()
    assert [index for index, *_ in records(launch)] == list(range(12))


def test_what_is_said_of_a_batch_that_is_no_longer_in_hand_is_logged_and_nothing_more(tmp_path):
    launch = Launch(tmp_path)
    launch.connect_ready()
    launch.failures.batch_failed(failed(1, 99))
    assert launch.state.log[-1].text == "batch 99 failed: no such word"
    assert events(launch, tmp_path, protocol.BatchFailed) == []


def test_rows_of_a_continuous_rank_that_raise_together_are_told_as_one_and_tried_alone(tmp_path):
    launch = Launch(tmp_path, prompts=40, ranks=1, batch_size=8, engine="continuous", order="input")
    (rank,) = launch.connect_ready("continuous")
    first = rank.peer.work[0]
    launch.say(rank, outputs_of(first, 0)[0])
    launch.say(rank, failed(0, first.batch))
    assert "its 9 rows in flight failed: no such word" in [line.text for line in launch.state.log]
    (told,) = events(launch, tmp_path, protocol.BatchFailed)
    assert told.batch == first.batch
    assert launch.scheduler.caps == {}
    assert rank.in_hand is not None, "it has others at once"
    assert indices(rank)[2] == list(range(10, 19))
    assert not launch.pool.leaving


def test_rows_of_a_continuous_rank_that_do_not_fit_are_halved_from_what_was_in_flight(tmp_path):
    launch = Launch(tmp_path, prompts=6, ranks=1, batch_size=8, engine="continuous", order="input")
    (rank,) = launch.connect_ready("continuous")
    launch.say(rank, *outputs_of(rank.peer.work[0], 0)[:2])
    launch.say(rank, failed(0, rank.peer.work[0].batch, "out_of_memory", "no room"))
    assert launch.scheduler.caps == {0: 2}, "of four rows"
    assert [order.rows for order in rank.peer.sent if isinstance(order, protocol.Limit)] == [8, 2]
    (capped,) = events(launch, tmp_path, protocol.RankCapped)
    assert (capped.rank, capped.batch_size) == (0, 2)


def test_more_prompts_in_hand_than_rows_are_no_reason_for_a_larger_cap(tmp_path):
    launch = Launch(tmp_path, prompts=60, ranks=1, batch_size=8, engine="continuous")
    (rank,) = launch.connect_ready("continuous")
    assert rank.in_hand.rows == 9
    launch.say(rank, failed(0, rank.peer.work[0].batch, "out_of_memory", "no room"))
    assert launch.scheduler.caps == {0: 4}


def test_one_row_at_a_time_that_does_not_fit_is_found_among_those_in_hand(tmp_path):
    launch = Launch(tmp_path, prompts=3, ranks=1, batch_size=1, engine="continuous", order="input")
    (rank,) = launch.connect_ready("continuous")
    assert len(rank.peer.work[0].prompts) == 2, "one is ahead"
    launch.say(rank, failed(0, rank.peer.work[0].batch, "out_of_memory", "no room"))
    assert launch.scheduler.caps == {}
    assert records(launch) == [], "which of the two is not known"
    for _ in range(10):
        if launch.pool.leaving:
            break
        work = rank.peer.work[-1]
        if [prompt.index for prompt in work.prompts] == [1]:
            launch.say(rank, failed(0, work.stream, "out_of_memory", "no room"))
        else:
            launch.say(rank, *outputs_of(work, 0))
            launch.say(rank, protocol.RankAccount(rank=0, result=result(len(work.prompts))))
    assert [(index, error) for index, error, *_ in records(launch)] == [(0, None), (1, "no room"), (2, None)]


def test_ranks_that_are_lost_are_told_by_the_first_and_all_they_had_is_done_again(tmp_path):
    launch = Launch(tmp_path, prompts=12, order="input")
    launch.connect_ready()
    assert not launch.failures.ranks_lost(2, 1, "it died")
    (lost,) = events(launch, tmp_path, protocol.RankLost)
    assert (lost.rank, lost.cause) == (1, "it died")
    assert launch.scheduler.in_flight == {}
    assert sorted(launch.scheduler.draw(6)) == [0, 1, 2, 3, 4, 5]
    launch.failures.ranks_lost(2, None, "the parent died")
    assert len(events(launch, tmp_path, protocol.RankLost)) == 1, "of no rank in particular"


def test_a_prompt_that_kills_its_rank_alone_is_given_up_with_the_cause(tmp_path):
    launch = Launch(tmp_path, prompts=1, ranks=1, batch_size=1)
    for _ in range(2):
        launch.connect_ready()
        assert records(launch) == []
        launch.failures.ranks_lost(1, 0, "it died")
        launch.pool.close()
        launch.launch_again()
    assert records(launch) == [(0, "its rank died of it twice: it died", 0, None)]


def test_ranks_that_are_lost_with_a_trial_cost_the_trial(tmp_path):
    plan = SweepPlan(batch_sizes=[4], ranks=[1], repeats=1, least_rounds=1, least_seconds=0.0)
    launch = Launch(tmp_path, ranks=1, sweep=plan)
    launch.connect_ready()
    assert launch.failures.ranks_lost(1, 0, "it died")
    assert launch.state.sweep.records[0].reason == "ranks were lost in it: it died"


def test_the_cap_of_a_rank_counts_and_not_the_batch_size_when_its_rows_do_not_fit(tmp_path):
    launch = Launch(tmp_path, prompts=60, ranks=1, batch_size=8, engine="continuous")
    launch.scheduler.caps[0] = 7
    (rank,) = launch.connect_ready("continuous")
    assert rank.in_hand.rows == 8
    launch.say(rank, failed(0, rank.peer.work[0].batch, "out_of_memory", "no room"))
    assert launch.scheduler.caps == {0: 3}
    launch.scheduler.caps[0] = 1
    launch.say(rank, failed(0, rank.peer.work[1].batch, "out_of_memory", "no room"))
    assert launch.scheduler.caps == {0: 1}, "one row is the limit already: each is tried alone"
    assert len(events(launch, tmp_path, protocol.RankCapped)) == 1


def test_a_batch_that_raises_is_no_lack_of_memory_even_on_a_rank_that_is_capped(tmp_path):
    launch = Launch(tmp_path, prompts=12, batch_size=None)
    zero, _ = launch.connect_ready()
    launch.scheduler.caps[0], size = 2, launch.scheduler.batch_size
    launch.say(zero, failed(0, zero.peer.work[0].batch))
    assert events(launch, tmp_path, protocol.RankCapped) == []
    assert launch.scheduler.batch_size == size


def test_only_what_the_culprit_had_in_hand_is_suspect(tmp_path):
    launch = Launch(tmp_path, prompts=2, batch_size=1, order="input")
    had = []
    for _ in range(2):
        _, one = launch.connect_ready()
        had += [prompt.index for prompt in one.peer.work[0].prompts]
        launch.failures.ranks_lost(2, 1, "it died")
        launch.pool.close()
        launch.launch_again()
    assert had == [1, 0], "another each time"
    assert records(launch) == []
