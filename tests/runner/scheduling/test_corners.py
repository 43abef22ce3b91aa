"""The scheduler's corners: borrowed batches, suspects, shares of inactive ranks, ranks that die again and again."""

import pytest

from rankdeck.runner.scheduling import prompt_queue
from rankdeck.runner.scheduling.scheduler import AHEAD, Assignment, Scheduler


def scheduler(prompts: int, batch_size: int = 4, ranks: int = 1) -> Scheduler:
    return Scheduler([1] * prompts, order="input", batch_size=batch_size, active_ranks=ranks)


def all_that_is_left(scheduler: Scheduler, rank: int = 0, *, most: int = 100) -> list[tuple[int, ...]]:
    """The batches that a rank is given and does until there is none, in `most` at most."""
    batches = []
    for _ in range(most):
        batch = scheduler.next_batch(rank)
        if batch is None:
            return batches
        batches.append(batch.indices)
        settle(scheduler, batch)
    pytest.fail(f"more than {most} batches")


def settle(scheduler: Scheduler, batch: Assignment) -> None:
    for index in batch.indices:
        scheduler.settle(index)
    scheduler.finish(batch.batch)


@pytest.mark.parametrize("end", ["lose", "fail", "halve"])
def test_a_borrowed_batch_of_one_row_costs_its_prompt_nothing_however_often_its_rank_dies(end):
    work = scheduler(3)
    for _ in range(4):
        batch = work.assign(0, [1], kept=False)
        assert batch.alone
        given_up = work.lose(0, culprit=True) if end == "lose" else getattr(work, end)(batch.batch)
        assert given_up == ()
    assert work.in_flight == {}
    assert all_that_is_left(work) == [(0, 1, 2)], "each prompt once: a borrowed one was never taken"


def test_a_kept_batch_of_one_row_whose_rank_dies_twice_gives_its_prompt_up():
    work = scheduler(1)
    work.next_batch(0)
    assert work.lose(0, culprit=True) == ()
    work.next_batch(0)
    assert work.lose(0, culprit=True) == (0,)
    assert work.pending == 0


def test_deaths_that_a_batch_did_not_cause_never_make_it_a_suspect():
    work = scheduler(2, batch_size=2)
    for _ in range(5):
        assert work.next_batch(0).indices == (0, 1), "together, as before"
        assert work.lose(0) == ()


def test_prompts_whose_rank_died_twice_are_tried_alone_and_only_the_culprit_is_given_up():
    work = scheduler(3, batch_size=3)
    for _ in range(2):
        assert work.next_batch(0).indices == (0, 1, 2)
        work.lose(0, culprit=True)
    given_up: list[int] = []
    for _ in range(10):
        batch = work.next_batch(0)
        if batch is None:
            break
        assert batch.alone
        if batch.indices == (1,):
            given_up += work.lose(0, culprit=True)
        else:
            settle(work, batch)
    assert given_up == [1]
    assert work.pending == 0


def suspects(work: Scheduler) -> None:
    """All prompts are to be tried alone, after a batch of all of them raised."""
    work.fail(work.next_batch(0).batch)


def test_a_suspect_gets_no_company_on_a_continuous_rank_before_it_has_ended():
    work = scheduler(4)
    suspects(work)
    first = work.next_rows(0, {})
    assert (first.indices, first.alone) == ((0,), True)
    assert work.next_rows(0, {0: 1}) is None, "it is alone, whatever room there is"
    work._returned.extend([3])
    assert work.next_rows(0, {0: 1}) is None, "not even for prompts that may share"
    settle(work, first)
    assert work.next_rows(0, {}).indices == (3,), "those that may share come first"


def test_a_suspect_does_not_join_rows_that_are_in_hand():
    work = scheduler(8)
    batch = work.next_batch(0)
    work.fail(batch.batch)
    shared = work.next_rows(0, {})
    assert (shared.indices, shared.alone) == ((4, 5, 6, 7), False)
    assert work.next_rows(0, {0: 1}) is None, "a suspect waits until the rank has nothing in hand"
    settle(work, shared)
    assert work.next_rows(0, {}).alone


def test_one_row_for_a_continuous_rank_is_no_suspect():
    work = scheduler(1, batch_size=1)
    rows = work.next_rows(0, {})
    assert (rows.indices, rows.alone) == ((0,), False)
    assert work.fail(rows.batch) == (), "so it is tried once more before it is given up"


def test_a_continuous_rank_is_kept_ahead_by_an_eighth_and_not_for_less():
    work = scheduler(1000, batch_size=64)
    assert len(work.next_rows(0, {}).indices) == 64 + 64 // AHEAD
    assert work.next_rows(0, {0: 65}) is None
    assert len(work.next_rows(0, {0: 64}).indices) == 8


def test_ranks_beyond_the_active_ones_get_nothing():
    work = scheduler(10, ranks=2)
    work.active_ranks = 1
    assert work.next_batch(1) is None
    assert work.next_rows(1, {}) is None


def test_the_share_of_an_inactive_rank_is_done_by_those_that_are_free():
    work = scheduler(8, ranks=2)
    work.use_share(0, 0, 4)
    work.use_share(1, 4, 8)
    work.active_ranks = 1
    assert all_that_is_left(work) == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_a_share_is_taken_once():
    work = scheduler(8, ranks=2)
    work.use_share(0, 0, 4)
    work.use_share(0, 4, 8)
    assert work.shares == {0: (0, 4)}
    assert all_that_is_left(work) == [(0, 1, 2, 3)]


def test_a_batch_that_does_not_fit_caps_its_rank_and_comes_back_in_front():
    work = scheduler(6, batch_size=4, ranks=1)
    batch = work.next_batch(0)
    assert work.halve(batch.batch) == ()
    assert work.caps == {0: len(batch.indices) // 2}
    assert work.next_batch(0).indices == batch.indices[: work.caps[0]]


def test_a_single_prompt_that_does_not_fit_is_given_up_and_caps_nobody():
    work = scheduler(1)
    assert work.halve(work.next_batch(0).batch) == (0,)
    assert work.caps == {}


def test_drawn_prompts_come_back_in_front_without_those_that_were_done_meanwhile():
    work = scheduler(6, batch_size=6)
    drawn = work.draw(3)
    work.settle(1)
    work.put_back(drawn)
    assert work.next_batch(0).indices == (0, 2)


def test_of_a_batch_that_ends_only_what_has_no_record_comes_back():
    work = scheduler(4)
    batch = work.next_batch(0)
    work.settle(2)
    work.finish(batch.batch)
    work.finish(batch.batch)
    assert work.next_batch(0).indices == (0, 1, 3)
    assert work.pending == 0


# --- each bound, on both sides ------------------------------------------------------------------------


def test_the_longest_of_no_prompts_is_nothing_and_of_some_the_longest():
    assert scheduler(0).longest == 0
    assert Scheduler([3, 9, 4], order="input", batch_size=1, active_ranks=1).longest == 9


def test_a_rank_beyond_its_share_of_what_is_left_still_takes_one_where_it_has_room():
    work = scheduler(1, batch_size=64, ranks=2)
    assert work.next_rows(0, {0: 5}).indices == (0,), "the others may be slow"


def test_the_share_of_a_continuous_rank_is_of_what_may_share_and_of_all_that_is_in_hand():
    work = scheduler(14, batch_size=64, ranks=2)
    work.fail(work.assign(0, work.draw(4)).batch)
    assert (work.pending, work.drawable) == (14, 10)
    assert len(work.next_rows(0, {}).indices) == 5, "of the ten that may share, not of the suspects"
    assert len(work.next_rows(1, {0: 5}).indices) == 5
    again = scheduler(11, batch_size=64, ranks=2)
    assert len(again.next_rows(0, {0: 1}).indices) == 5, "12 in all, of which it has one"


def test_a_continuous_rank_with_a_cap_is_kept_ahead_by_an_eighth_of_that():
    work = scheduler(1000, batch_size=64)
    work.cap(0, 32)
    assert len(work.next_rows(0, {}).indices) == 16 + 2
    assert work.next_rows(0, {0: 17}) is None
    assert len(work.next_rows(0, {0: 16}).indices) == 2
    work.batch_size = 8
    assert work.most_rows(0) == 8, "a cap above the batch size is none"
    assert work.most_rows(1) == 8


def test_a_suspect_of_one_rank_keeps_no_other_from_its_rows():
    work = scheduler(40, batch_size=8, ranks=2)
    work.assign(1, work.draw(1), alone=True)
    assert work.next_rows(0, {0: 1, 1: 1}) is not None
    assert work.next_rows(1, {1: 1}) is None


def test_a_prompt_is_part_of_a_run_from_the_first_to_the_last():
    work = scheduler(2)
    assert [work.is_settled(index) for index in (-1, 0, 1, 2)] == [True, False, False, True]
    assert not work.settle(-1)
    assert work.settle(1)
    assert (work.unsettled, [work.is_settled(index) for index in (0, 1)]) == (1, [False, True])


def test_the_shares_of_several_inactive_ranks_are_done_from_the_lowest_on():
    work = scheduler(9, batch_size=3, ranks=3)
    for rank, start in ((2, 6), (1, 3), (0, 0)):
        work.use_share(rank, start, start + 3)
    assert work.shares == {2: (6, 9), 1: (3, 6), 0: (0, 3)}
    work.active_ranks = 1
    assert all_that_is_left(work) == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]


def test_prompts_are_drawn_from_what_came_back_and_then_from_every_share():
    work = scheduler(8, ranks=2)
    work.use_share(0, 0, 4)
    work.use_share(1, 4, 8)
    work.put_back(work.draw(2))
    assert work.pending == 8
    assert work.draw(6) == [0, 1, 2, 3, 4, 5]
    assert (work.pending, work.draw(9), work.draw(1)) == (2, [6, 7], [])


def test_suspects_that_were_done_meanwhile_are_not_given_up():
    work = scheduler(1)
    for end in ("halve", "fail"):
        batch = work.assign(0, [0])
        work.settle(0)
        assert getattr(work, end)(batch.batch) == ()
    for _ in range(3):
        work.assign(0, [0])
        assert work.lose(0, culprit=True) == ()


def test_half_of_a_batch_that_does_not_fit_is_what_its_rank_gets_and_one_of_a_trial_caps_nobody():
    work = scheduler(12, batch_size=5, ranks=2)
    trial = work.assign(0, [0, 1, 2], kept=False)
    assert (work.halve(trial.batch), work.caps, work.in_flight) == ((), {}, {})
    batch = work.assign(0, work.draw(5))
    assert (work.halve(batch.batch), work.caps, work.in_flight) == ((), {0: 2}, {})
    work.cap(1, 1)
    assert work.caps == {0: 2, 1: 1}


def test_a_turn_of_a_knob_makes_a_new_plan_of_even_rounds():
    work = scheduler(100, batch_size=16, ranks=5)
    assert len(work.next_batch(0).indices) == 10
    work.batch_size = 20
    assert len(work.next_batch(1).indices) == 18, "90 left in one round of five"
    work.active_ranks = 4
    assert len(work.next_batch(2).indices) == 18, "72 left in one round of four"
    assert len(work.next_batch(3).indices) == 18, "as planned"
    assert work.next_batch(4) is None
    work.cap(0, 10)
    assert len(work.next_batch(0).indices) == 5


@pytest.mark.parametrize("order", ["input", "length"])
@pytest.mark.parametrize("dispatch", ["pull", "split"])
def test_what_is_done_already_is_not_handed_out_again_however_many_prompts_there_are(monkeypatch, order, dispatch):
    monkeypatch.setattr(prompt_queue, "WINDOW_PROMPTS", 4)
    done = [index for index in range(30) if index % 3 == 0 or 10 <= index < 18]
    work = Scheduler([1 + index % 5 for index in range(30)], order=order, batch_size=4, active_ranks=2, done=done)
    if dispatch == "split":
        work.use_share(0, 0, 15)
        work.use_share(1, 15, 30)
    handed_out: list[int] = []
    for _ in range(60):
        for rank in (0, 1):
            if (batch := work.next_batch(rank)) is not None:
                handed_out += batch.indices
                settle(work, batch)
    assert sorted(handed_out) == [index for index in range(30) if index not in done]
