"""Even rounds: what is predicted in the middle of a run is what the scheduler then hands out."""

from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.scheduling.rounds import EvenRounds
from rankdeck.runner.scheduling.scheduler import Assignment, Scheduler
from rankdeck.runner.state import RunState, apply
from tests.scripted import Script


class Followed:
    """The state of a scripted run, updated with its new events only."""

    def __init__(self, script: Script) -> None:
        self._script, self._state, self._seen = script, RunState(), 0

    @property
    def state(self) -> RunState:
        for event in self._script.events[self._seen :]:
            self._state = apply(self._state, event)
        self._seen = len(self._script.events)
        return self._state

    @property
    def pending(self) -> int:
        return self.state.prompts - self.state.done - sum(rank.rows for rank in self.state.ranks)


def given_to(script: Script, scheduler: Scheduler, rank: int) -> Assignment | None:
    assignment = scheduler.next_batch(rank)
    if assignment is not None:
        rows = len(assignment.indices)
        script.add(protocol.BatchStarted(rank=rank, batch=assignment.batch, rows=rows))
    return assignment


@given(
    prompts=st.integers(1, 120),
    ranks=st.integers(1, 4),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    turned_after=st.integers(0, 10),
    data=st.data(),
)
def test_the_state_knows_how_many_batches_are_still_to_come(prompts, ranks, sizes, turned_after, data):
    script = Script(ranks, prompts=prompts, batch_size=sizes[0]).started().launched().loading().ready()
    script.add(protocol.BatchSizeChanged(batch_size=sizes[0], auto=False, reason="as asked for"))
    followed = Followed(script)
    scheduler = Scheduler([1] * prompts, order="input", batch_size=sizes[0], active_ranks=ranks)
    in_hand: dict[int, Assignment] = {}
    handed_out, predicted = 0, []
    while True:
        if handed_out == turned_after and scheduler.batch_size != sizes[1]:
            scheduler.batch_size = sizes[1]
            script.add(protocol.BatchSizeChanged(batch_size=sizes[1], auto=False, reason="as asked for"))
            predicted.clear()  # of another setting
        free = next((rank for rank in range(ranks) if rank not in in_hand), None)
        if free is not None and (assignment := given_to(script, scheduler, free)) is not None:
            in_hand[free] = assignment
            handed_out += 1
        elif in_hand:
            rank = data.draw(st.sampled_from(sorted(in_hand)))
            done = in_hand.pop(rank)
            script.finish_batch(rank, done.batch, done.indices)
        else:
            break
        if left := followed.pending:
            expected = followed.state.rounds.planned(left, scheduler.batch_size, ranks)
            predicted.append((handed_out, min(left, expected)))
    assert all(handed_out - before == batches for before, batches in predicted)


def test_a_batch_before_the_run_is_known_is_no_error():
    started = protocol.BatchStarted(rank=0, batch=1, rows=4)
    assert apply(RunState(), started).rounds == EvenRounds()


def test_a_new_plan_is_made_when_a_knob_was_turned_or_the_plan_is_used_up():
    plan = EvenRounds().cut(100, 16, 5)
    assert plan == EvenRounds(16, 5, 9)
    assert plan.planned(90, 16, 5) == 9
    assert plan.planned(90, 20, 5) == 5
    assert EvenRounds(16, 5, 0).planned(7, 16, 5) == 5


# --- a larger size that changes nothing -----------------------------------------------------------


@given(prompts=st.integers(1, 60), size=st.integers(1, 40), more=st.integers(1, 40), ranks=st.integers(1, 5))
def test_a_larger_size_that_is_said_to_cut_alike_cuts_the_same_batches(prompts, size, more, ranks):
    def batches(then: int | None) -> list[int]:
        scheduler = Scheduler(bytes(prompts), order="input", batch_size=size, active_ranks=ranks)
        if then is not None:
            alike.append(scheduler.cut_alike(then))
            scheduler.batch_size = then
        found = []
        while scheduler.pending:
            given = scheduler.next_batch(len(found) % ranks)
            found.append(len(given.indices))
        return found

    alike: list[bool] = []
    same = batches(None) == batches(size + more)
    assert alike == [prompts <= size * ranks], "one round holds all that is left"
    assert same or not alike[0]


def test_what_was_given_back_or_capped_or_is_a_share_is_judged_by_what_it_is():
    def new() -> Scheduler:
        return Scheduler(bytes(20), order="input", batch_size=16, active_ranks=2)

    assert new().cut_alike(32)
    capped = new()
    capped.caps[0] = 4
    assert not capped.cut_alike(32)
    back = new()
    back.finish(back.next_batch(0).batch)
    assert not back.cut_alike(32)
    shared = new()
    shared.use_share(0, 0, 10)
    shared.use_share(1, 10, 20)
    assert shared.cut_alike(32)
    assert not shared.cut_alike(8)
