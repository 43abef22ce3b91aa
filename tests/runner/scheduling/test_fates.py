"""What becomes of prompts that are lost, raise, do not fit or are borrowed, and what a continuous rank gets next."""

import pytest

from rankdeck.runner.scheduling.scheduler import AHEAD, Scheduler


def scheduler(count: int = 12, *, batch_size: int = 4, active_ranks: int = 2, **settings) -> Scheduler:
    return Scheduler(bytes(count), order="input", batch_size=batch_size, active_ranks=active_ranks, **settings)


def indices(assignment) -> tuple[int, ...]:
    return () if assignment is None else assignment.indices


# --- what comes back, and in which order ------------------------------------------------------------


def test_what_is_put_back_comes_next_in_its_order_without_what_is_settled():
    plan = scheduler()
    drawn = plan.draw(4)
    assert drawn == [0, 1, 2, 3]
    plan.settle(1)
    plan.put_back(drawn)
    assert plan.draw(5) == [0, 2, 3, 4, 5]


def test_the_batch_of_a_lost_rank_comes_next_in_its_order_before_all_others():
    plan = scheduler()
    first, second = plan.next_batch(0), plan.next_batch(1)
    assert plan.lose(1) == ()
    assert plan.lose(0) == ()
    assert plan.draw(12) == [*first.indices, *second.indices, *range(6, 12)]


def test_a_finished_batch_gives_back_what_has_no_record():
    plan = scheduler(4, batch_size=4, active_ranks=1)
    batch = plan.next_batch(0)
    plan.settle(0)
    plan.settle(2)
    plan.finish(batch.batch)
    assert indices(plan.next_batch(0)) == (1, 3)


# --- batches that raise -----------------------------------------------------------------------------


def test_prompts_of_a_batch_that_raised_are_tried_one_by_one_after_all_others():
    plan = scheduler(6, batch_size=3, active_ranks=1)
    assert plan.fail(plan.next_batch(0).batch) == ()
    assert indices(plan.next_batch(0)) == (3, 4, 5)
    alone = [plan.next_batch(0) for _ in range(3)]
    assert [(one.indices, one.alone) for one in alone] == [((0,), True), ((1,), True), ((2,), True)]
    assert plan.fail(alone[1].batch) == (1,), "it has failed alone"
    assert plan.fail(alone[1].batch) == (), "a batch that is over has no prompts"


def test_a_borrowed_prompt_that_raises_alone_has_not_failed():
    plan = scheduler(1, batch_size=1, active_ranks=1)
    trial = plan.assign(0, [0], kept=False)
    assert trial.alone
    assert plan.fail(trial.batch) == ()
    assert indices(plan.next_batch(0)) == (0,), "it was never taken out of the queue"


# --- ranks that die ---------------------------------------------------------------------------------


def test_prompts_for_which_a_rank_died_twice_are_tried_alone_and_dead_at_the_third_time():
    plan = scheduler(2, batch_size=2, active_ranks=1)
    plan.next_batch(0)
    assert plan.lose(0, culprit=True) == ()
    together = plan.next_batch(0)
    assert indices(together) == (0, 1), "once may be chance"
    assert plan.lose(0, culprit=True) == ()
    first = plan.next_batch(0)
    assert (first.indices, first.alone) == ((0,), True)
    assert plan.lose(0, culprit=True) == (0,)
    plan.settle(0)
    assert indices(plan.next_batch(0)) == (1,)


def test_a_rank_that_was_ended_by_others_makes_no_prompt_suspect():
    plan = scheduler(1, batch_size=1, active_ranks=1)
    for _ in range(5):
        assert indices(plan.next_batch(0)) == (0,)
        assert plan.lose(0) == ()


def test_a_borrowed_batch_whose_rank_dies_costs_no_prompt_its_record():
    plan = scheduler(3, batch_size=1, active_ranks=1)
    for _ in range(4):
        plan.assign(0, [0], kept=False)
        assert plan.lose(0, culprit=True) == ()
    assert plan.pending == 3
    assert [indices(plan.next_batch(0)) for _ in range(4)] == [(0,), (1,), (2,), ()]


# --- too large --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "cap"), [(2, 1), (3, 1), (8, 4), (9, 4)])
def test_out_of_memory_halves_what_its_rank_gets_and_no_other(rows, cap):
    plan = scheduler(100, batch_size=rows, active_ranks=2)
    plan.halve(plan.assign(0, plan.draw(rows)).batch)
    assert plan.caps == {0: cap}
    assert (plan.most_rows(0), plan.most_rows(1)) == (cap, rows)
    assert indices(plan.next_batch(0)) == tuple(range(cap)), "the first of them, at the front again"


def test_a_prompt_that_does_not_fit_alone_is_returned_to_be_recorded():
    plan = scheduler(1, batch_size=1, active_ranks=1)
    assert plan.halve(plan.next_batch(0).batch) == (0,)
    assert plan.caps == {}
    assert plan.pending == 0


# --- continuous ranks -------------------------------------------------------------------------------


def test_a_continuous_rank_is_kept_ahead_of_its_rows_by_a_part_and_not_prompt_by_prompt():
    plan = scheduler(1000, batch_size=4 * AHEAD, active_ranks=1)
    most = 4 * AHEAD + 4
    assert len(indices(plan.next_rows(0, {}))) == most
    assert plan.next_rows(0, {0: most}) is None
    assert plan.next_rows(0, {0: most - 3}) is None, "not for three"
    assert len(indices(plan.next_rows(0, {0: most - 4}))) == 4


def test_no_continuous_rank_gets_more_than_its_share_of_what_is_left():
    plan = scheduler(20, batch_size=64, active_ranks=2)
    assert len(indices(plan.next_rows(0, {}))) == 10
    assert len(indices(plan.next_rows(1, {0: 10}))) == 10
    assert plan.pending == 0


def test_an_inactive_rank_gets_nothing():
    plan = scheduler(20, active_ranks=1)
    assert plan.next_rows(1, {}) is None
    assert plan.next_batch(1) is None


def test_a_suspect_prompt_waits_until_a_continuous_rank_is_empty_and_gets_no_company():
    plan = scheduler(6, batch_size=8, active_ranks=1)
    plan.fail(plan.assign(0, plan.draw(2)).batch)
    aside = plan.draw(1)
    others = plan.next_rows(0, {})
    assert (others.indices, others.alone) == ((3, 4, 5), False)
    assert plan.next_rows(0, {0: 3}) is None, "the rank is not empty"
    for index in others.indices:
        plan.settle(index)
    plan.finish(others.batch)
    suspect = plan.next_rows(0, {})
    assert (suspect.indices, suspect.alone) == ((0,), True)
    plan.put_back(aside)
    assert plan.next_rows(0, {0: 1}) is None, "no company for a prompt that is tried alone"
    assert plan.fail(suspect.batch) == (0,)
    assert indices(plan.next_rows(0, {})) == (2,)


# --- shares -----------------------------------------------------------------------------------------


def test_the_share_of_a_rank_that_is_not_active_is_done_by_the_others():
    plan = scheduler(9, batch_size=3, active_ranks=3)
    for rank in range(3):
        plan.use_share(rank, 3 * rank, 3 * rank + 3)
    plan.active_ranks = 2
    assert indices(plan.next_batch(0)) == (0, 1, 2)
    assert indices(plan.next_batch(0)) == (6, 7, 8), "its own is empty, and rank 2 is inactive"
    assert plan.next_batch(0) is None, "rank 1 does its own"
    assert indices(plan.next_batch(1)) == (3, 4, 5)


def test_a_share_that_is_announced_again_after_a_relaunch_is_not_done_again():
    plan = scheduler(6, batch_size=2, active_ranks=1)
    plan.use_share(0, 0, 6)
    for index in indices(plan.next_batch(0)):
        plan.settle(index)
    in_hand = plan.next_batch(0)
    assert in_hand.indices == (2, 3)
    plan.use_share(0, 0, 6)
    assert plan.pending == 2
    assert indices(plan.next_batch(0)) == (4, 5), "what is in hand is not handed out twice"


def test_prompts_that_have_their_record_are_left_out_of_every_share_and_of_what_is_pending():
    plan = scheduler(6, batch_size=6, active_ranks=2, done=[1, 4])
    assert (plan.pending, plan.unsettled) == (4, 4)
    plan.use_share(0, 0, 3)
    plan.use_share(1, 3, 6)
    assert plan.pending == 4
    assert (indices(plan.next_batch(0)), indices(plan.next_batch(1))) == ((0, 2), (3, 5))


def test_another_order_holds_for_what_is_still_in_the_queue():
    plan = Scheduler(bytes([1, 5, 3, 4, 2]), order="length", batch_size=2, active_ranks=1)
    assert plan.draw(1) == [1]
    plan.reorder("input")
    assert plan.draw(4) == [0, 2, 3, 4]


def test_batches_are_numbered_on_from_those_of_an_earlier_supervisor():
    plan = scheduler(4, batch_size=2, active_ranks=1, first_batch=7)
    assert [plan.next_batch(0).batch, plan.next_batch(0).batch] == [7, 8]
