"""The scheduler: every prompt exactly once, in as few rounds as the batch size allows."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rankdeck.runner.scheduling.prompt_queue import WINDOW_PROMPTS
from rankdeck.runner.scheduling.rounds import batches_needed
from rankdeck.runner.scheduling.scheduler import Scheduler

LENGTHS = st.lists(st.integers(0, 500), max_size=200)
ORDERS = st.sampled_from(["length", "input"])


def rounds_of(scheduler: Scheduler, ranks: int) -> list[list[int]]:
    """Batch sizes per round, with all ranks equally fast."""
    rounds: list[list[int]] = []
    while scheduler.unsettled:
        assert len(rounds) < 1000, "rounds without end"
        batches = [scheduler.next_batch(rank) for rank in range(ranks)]
        rounds.append([len(batch.indices) for batch in batches if batch])
        for batch in batches:
            if batch:
                for index in batch.indices:
                    assert scheduler.settle(index)
                scheduler.finish(batch.batch)
    return rounds


@given(LENGTHS, ORDERS, st.integers(1, 40), st.integers(1, 8))
def test_every_prompt_is_handed_out_exactly_once(lengths, order, batch_size, ranks):
    scheduler = Scheduler(lengths, order=order, batch_size=batch_size, active_ranks=ranks)
    seen = []
    rank = 0
    while batch := scheduler.next_batch(rank % ranks):
        assert rank <= len(lengths), "a batch without an end"
        seen += batch.indices
        assert 1 <= len(batch.indices) <= batch_size
        rank += 1
    assert sorted(seen) == list(range(len(lengths)))


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 8))
def test_never_more_rounds_than_full_batches_would_take(count, batch_size, ranks):
    scheduler = Scheduler([1] * count, order="length", batch_size=batch_size, active_ranks=ranks)
    rounds = rounds_of(scheduler, ranks)
    assert len(rounds) == -(-count // (batch_size * ranks))
    if count >= ranks:
        sizes = [size for one in rounds for size in one]
        assert max(sizes) - min(sizes) <= 1, "no rank ends with a small remainder"


def test_the_articles_hundred_prompts_on_five_ranks_take_two_rounds_at_16_and_one_at_20():
    assert rounds_of(Scheduler([1] * 100, order="input", batch_size=16, active_ranks=5), 5) == [[10] * 5] * 2
    assert rounds_of(Scheduler([1] * 100, order="input", batch_size=20, active_ranks=5), 5) == [[20] * 5]
    assert batches_needed(100, 4, 16) == 8


def test_length_order_takes_the_longest_first_within_a_window():
    scheduler = Scheduler([3, 9, 5, 9], order="length", batch_size=4, active_ranks=1)
    assert scheduler.next_batch(0).indices == (1, 3, 2, 0)
    lengths = [1] * WINDOW_PROMPTS + [100]
    scheduler = Scheduler(lengths, order="length", batch_size=1, active_ranks=1)
    assert scheduler.next_batch(0).indices == (0,), "a long prompt beyond the window waits for its window"


def test_input_order_keeps_the_files_order():
    scheduler = Scheduler([3, 9, 5], order="input", batch_size=3, active_ranks=1)
    assert scheduler.next_batch(0).indices == (0, 1, 2)


def test_the_batch_of_a_lost_rank_goes_to_the_front_of_the_queue():
    scheduler = Scheduler([1] * 6, order="input", batch_size=2, active_ranks=3)
    lost = scheduler.next_batch(0)
    scheduler.next_batch(1)
    scheduler.settle(lost.indices[0])
    scheduler.lose(0)
    assert scheduler.next_batch(2).indices == lost.indices[1:], "what was finished is not done again"


def test_a_batch_that_raises_is_tried_again_prompt_by_prompt_and_only_the_bad_one_fails():
    scheduler = Scheduler([1] * 3, order="input", batch_size=3, active_ranks=1)
    assert scheduler.fail(scheduler.next_batch(0).batch) == ()
    alone = [scheduler.next_batch(0) for _ in range(3)]
    assert [batch.indices for batch in alone] == [(0,), (1,), (2,)]
    scheduler.settle(0)
    scheduler.finish(alone[0].batch)
    assert scheduler.fail(alone[1].batch) == (1,)


def test_a_second_record_of_a_prompt_is_refused():
    scheduler = Scheduler([1], order="input", batch_size=1, active_ranks=1)
    assert scheduler.settle(0)
    assert not scheduler.settle(0)
    assert not scheduler.settle(7), "nor is one of a prompt that does not exist"


@given(LENGTHS, st.integers(1, 40), st.data())
def test_split_shares_go_only_to_their_rank_in_slices_of_the_batch_size(lengths, batch_size, data):
    ranks = data.draw(st.integers(1, 5))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(lengths)), min_size=ranks - 1, max_size=ranks - 1)))
    edges = [0, *cuts, len(lengths)]
    scheduler = Scheduler(lengths, order="input", batch_size=batch_size, active_ranks=ranks)
    for rank in range(ranks):
        scheduler.use_share(rank, edges[rank], edges[rank + 1])
    for rank in range(ranks):
        mine = []
        while batch := scheduler.next_batch(rank):
            assert len(mine) <= len(lengths), "a batch without an end"
            mine.append(batch.indices)
        assert [index for one in mine for index in one] == list(range(edges[rank], edges[rank + 1]))
        assert all(len(one) == batch_size for one in mine[:-1])


def test_prompts_that_are_already_done_are_not_handed_out():
    scheduler = Scheduler([1] * 5, order="input", batch_size=5, active_ranks=1, done=[1, 3], first_batch=8)
    batch = scheduler.next_batch(0)
    assert batch.indices == (0, 2, 4)
    assert batch.batch == 8, "batch numbers go on where the earlier ones ended"


def test_prompts_that_have_lost_their_record_are_done_again_first_of_all():
    scheduler = Scheduler([1] * 8, order="input", batch_size=3, active_ranks=1, done=[6, 7])
    first = scheduler.next_batch(0)
    for index in first.indices:
        scheduler.settle(index)
    scheduler.finish(first.batch)
    in_hand = scheduler.next_batch(0)
    scheduler.settle(3)
    scheduler.reopen([1, 3, 7])
    assert (scheduler.unsettled, scheduler.pending) == (5, 2), "what is in hand comes back when its batch ends"
    assert not scheduler.is_settled(1)
    scheduler.finish(in_hand.batch)
    assert scheduler.next_batch(0).indices == (3, 4, 5)
    assert scheduler.next_batch(0).indices == (1, 7)
    assert scheduler.next_batch(0) is None


def test_a_prompt_that_has_lost_its_record_does_not_come_back_from_a_trial_that_borrows_it():
    scheduler = Scheduler([1] * 2, order="input", batch_size=2, active_ranks=1, done=[0, 1])
    trial = scheduler.assign(0, [0, 1], kept=False)
    scheduler.reopen([0])
    scheduler.finish(trial.batch)
    assert scheduler.unsettled == 1
    assert scheduler.next_batch(0).indices == (0,)


class AnyInterleaving(RuleBasedStateMachine):
    """Pull, finish, fail, lose a rank, lose records, turn a knob, in any order: no prompt is lost or done twice."""

    @initialize(count=st.integers(0, 60), batch_size=st.integers(1, 16), split=st.booleans())
    def start(self, count, batch_size, split):
        self.scheduler = Scheduler(range(count), order="length", batch_size=batch_size, active_ranks=4)
        self.count, self.settled, self.failed = count, set(), set()
        if split:
            for rank in range(4):
                self.scheduler.use_share(rank, rank * count // 4, (rank + 1) * count // 4)

    @rule(rank=st.integers(0, 3))
    def pull(self, rank):
        if batch := self.scheduler.next_batch(rank):
            assert 1 <= len(batch.indices) <= self.scheduler.batch_size
            assert not self.settled & set(batch.indices)

    @precondition(lambda self: self.scheduler.in_flight)
    @rule(data=st.data())
    def finish(self, data):
        batch = self.scheduler.in_flight[data.draw(st.sampled_from(sorted(self.scheduler.in_flight)))]
        done = data.draw(st.integers(0, len(batch.indices)))
        for index in batch.indices[:done]:
            assert self.scheduler.settle(index)
            self.settled.add(index)
        self.scheduler.finish(batch.batch)

    @precondition(lambda self: self.scheduler.in_flight)
    @rule(data=st.data())
    def fail(self, data):
        batch = data.draw(st.sampled_from(sorted(self.scheduler.in_flight)))
        for index in self.scheduler.fail(batch):
            assert self.scheduler.settle(index)
            self.settled.add(index)

    @rule(data=st.data())
    def lose_records(self, data):
        lost = data.draw(st.sets(st.sampled_from(sorted(self.settled)))) if self.settled else set()
        self.scheduler.reopen(sorted(lost))
        self.settled -= lost

    @rule(rank=st.integers(0, 3))
    def lose_a_rank(self, rank):
        self.scheduler.lose(rank)

    @rule(batch_size=st.integers(1, 16), active_ranks=st.integers(1, 4))
    def turn_the_knobs(self, batch_size, active_ranks):
        self.scheduler.batch_size, self.scheduler.active_ranks = batch_size, active_ranks

    @invariant()
    def every_prompt_is_in_exactly_one_place(self):
        held = [index for batch in self.scheduler.in_flight.values() for index in batch.indices]
        unsettled_held = [index for index in held if index not in self.settled]
        assert len(unsettled_held) == len(set(unsettled_held))
        assert self.scheduler.unsettled == self.count - len(self.settled)
        assert self.scheduler.pending + len(unsettled_held) == self.scheduler.unsettled

    def teardown(self):
        scheduler = getattr(self, "scheduler", None)
        if scheduler is None:
            return
        for rank in range(4):
            scheduler.lose(rank)
        for _ in range(10 * (self.count + 1)):
            if not scheduler.unsettled:
                break
            for batch in [scheduler.next_batch(rank) for rank in range(4)]:
                if batch:
                    self.settled.update(index for index in batch.indices if scheduler.settle(index))
                    scheduler.finish(batch.batch)
        assert self.settled == set(range(self.count))


TestAnyInterleaving = AnyInterleaving.TestCase


class ContinuousRanks(RuleBasedStateMachine):
    """The same for continuous ranks, with suspects: a prompt that is tried alone never has company."""

    @initialize(count=st.integers(0, 60), batch_size=st.integers(1, 16))
    def start(self, count, batch_size):
        self.scheduler = Scheduler(range(count), order="input", batch_size=batch_size, active_ranks=3)
        self.count, self.settled = count, set()

    @property
    def in_hand(self) -> dict[int, int]:
        held: dict[int, int] = {}
        for batch in self.scheduler.in_flight.values():
            left = sum(index not in self.settled for index in batch.indices)
            held[batch.rank] = held.get(batch.rank, 0) + left
        return held

    @rule(rank=st.integers(0, 2))
    def top_up(self, rank):
        rows = self.scheduler.next_rows(rank, self.in_hand)
        assert rows is None or not self.settled & set(rows.indices)

    @precondition(lambda self: self.scheduler.in_flight)
    @rule(data=st.data())
    def answer(self, data):
        batch = self.scheduler.in_flight[data.draw(st.sampled_from(sorted(self.scheduler.in_flight)))]
        for index in batch.indices:
            if self.scheduler.settle(index):
                self.settled.add(index)
        self.scheduler.finish(batch.batch)

    @rule(rank=st.integers(0, 2), culprit=st.booleans())
    def lose_a_rank(self, rank, culprit):
        self.settled.update(
            index for index in self.scheduler.lose(rank, culprit=culprit) if self.scheduler.settle(index)
        )

    @rule(rank=st.integers(0, 2))
    def rows_fail(self, rank):
        for number in [number for number, batch in self.scheduler.in_flight.items() if batch.rank == rank]:
            given_up = self.scheduler.fail(number)
            self.settled.update(index for index in given_up if self.scheduler.settle(index))

    @invariant()
    def whoever_is_alone_has_no_company(self):
        for batch in self.scheduler.in_flight.values():
            if batch.alone:
                others = [other for other in self.scheduler.in_flight.values() if other.rank == batch.rank]
                assert others == [batch]
                assert len(batch.indices) == 1

    @invariant()
    def every_prompt_is_in_exactly_one_place(self):
        held = sum(self.in_hand.values())
        assert self.scheduler.unsettled == self.count - len(self.settled)
        assert self.scheduler.pending + held == self.scheduler.unsettled

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for rank in range(3):
            self.scheduler.lose(rank)
        for _ in range(2 * self.count + 2):
            rows = self.scheduler.next_rows(0, {})
            if rows is not None:
                self.settled.update(index for index in rows.indices if self.scheduler.settle(index))
                self.scheduler.finish(rows.batch)
        assert self.settled == set(range(self.count))


TestContinuousRanks = ContinuousRanks.TestCase
