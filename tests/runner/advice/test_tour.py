"""The tour: it walks ranks, then batch sizes, each setting once, always ends, and ends at the best it has measured."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.advice.tour import Move, Tour, begin, next_step, taken_over, up_to_date
from rankdeck.runner.advice.tour_limits import LARGEST, LEAST_FULL, LEAST_SECONDS, Setting, steps_of_ranks, why_no_tour
from rankdeck.runner.protocol import (
    Command,
    DeviceSample,
    RankReady,
    RunEnded,
    SetActiveRanks,
    SetBatchSize,
    StartSweep,
    Stop,
    TurnRefused,
)
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState
from rankdeck.runner.scheduling.rounds import EvenRounds
from rankdeck.runner.state import DeviceState, RankState, RunState
from rankdeck.runner.state.periods import share_of_batch, with_new_period
from rankdeck.runner.state.settings import all_settings

GIB = 2**30

Rates = Callable[[int, int], float]
"""Output tokens/s of a number of active ranks at a batch size."""


def growing(ranks: int, size: int) -> float:
    """Twice the ranks or rows bring almost twice as much, without end."""
    return 10.0 * ranks**0.95 * size**0.95


def flat_from_8(ranks: int, size: int) -> float:
    return 10.0 * ranks * min(size, 8)


class Toy:
    """A run that obeys at once, with a rate for each setting; each `round` is one batch of every active rank."""

    def __init__(
        self, rates: Rates, *, ranks: int = 2, size: int = 2, prompts: int = 100_000, seconds: float = 1.0
    ) -> None:
        self.rates, self.seconds = rates, seconds
        self.state = RunState(
            phase="running",
            prompts=prompts,
            ready_at=1.0,
            now=2.0,
            batch_size=size,
            active_ranks=ranks,
            ranks=tuple(RankState(rank=rank, ready=ready(rank)) for rank in range(ranks)),
        )
        self.sent: list[Command] = []
        self.settings: list[Setting] = []
        self.rounds, self.cut = EvenRounds(), dict[Setting, list[int]]()
        self._period()

    def change(self, **changes: object) -> "Toy":
        self.state = msgspec.structs.replace(self.state, **changes)
        return self

    def obey(self, command: Command) -> None:
        self.sent.append(command)
        match command:
            case SetBatchSize(batch_size=int(size)):
                self.change(batch_size=size)
            case SetActiveRanks():
                self.change(active_ranks=command.active_ranks)
        self._period()

    def round(self) -> None:
        ranks, size = self.state.active_ranks, self.state.batch_size
        for rank in range(ranks):
            if not self.state.pending:
                break
            planned = self.rounds.planned(self.state.pending, size, ranks)
            rows = -(-self.state.pending // planned)
            self.rounds = self.rounds.cut(self.state.pending, size, ranks)
            self.cut.setdefault(Setting(ranks, size), []).append(rows)
            tokens = round(self.rates(ranks, size) / ranks * self.seconds)
            period = self.state.periods[-1].with_batch(rank, share_of_batch(tokens, self.seconds))
            done = min(self.state.prompts, self.state.completed + rows)
            self.change(periods=(*self.state.periods[:-1], period), completed=done, now=self.state.now + 0.25)

    def take(self, move: Move) -> Tour:
        for command in move.commands:
            self.obey(command)
        if move.commands:
            self.settings.append(Setting(self.state.active_ranks, self.state.batch_size))
        return move.tour

    def tour(self) -> Tour:
        """A whole tour."""
        assert why_no_tour(self.state) is None
        tour = self.take(begin(self.state))
        for _ in range(1000):
            if tour.over:
                return tour
            self.round()
            tour = self.take(next_step(tour, self.state))
        raise AssertionError("a tour without an end")

    def _period(self) -> None:
        periods = with_new_period(
            self.state.periods, self.state.now, self.state.batch_size, self.state.active_ranks,
            auto=False, reason="as asked for", trial=False,
        )  # fmt: skip
        self.change(periods=periods)


def ready(rank: int, device: str = "cuda", engine: str = "static") -> RankReady:
    return RankReady(
        rank=rank, device=device, device_name="x", dtype="float32", engine=engine, seconds=1, parameters=1,
        parameter_bytes=2 * GIB,
    )  # fmt: skip


def walked(tour: Tour) -> list[Setting]:
    return [one.setting for one in tour.done]


# --- the walk -------------------------------------------------------------------------------------


def test_it_walks_ranks_1_2_4_to_all_and_then_doubles_the_batch_size() -> None:
    toy = Toy(flat_from_8, ranks=6)
    tour = toy.tour()
    assert walked(tour) == [(1, 2), (2, 2), (4, 2), (6, 2), (6, 4), (6, 8), (6, 16)]
    assert tour.why == "gain"
    assert tour.best is not None
    assert tour.best.setting == (6, 8), "16 was no faster"
    assert (toy.state.active_ranks, toy.state.batch_size) == (6, 8)
    assert toy.sent[0] == SetActiveRanks(active_ranks=1)
    assert toy.sent[-2:] == [SetBatchSize(batch_size=16), SetBatchSize(batch_size=8)]


def test_one_rank_that_is_there_already_is_not_asked_for_and_what_it_has_done_counts() -> None:
    toy = Toy(growing, ranks=1, seconds=3.0)
    toy.round()
    move = next_step(begin(toy.state).tour, toy.state)
    assert move.commands == (SetBatchSize(batch_size=4),)
    assert walked(move.tour) == [(1, 2)]


def test_each_rank_is_measured_for_two_seconds_at_least() -> None:
    toy = Toy(growing, ranks=1, seconds=0.3)
    tour = toy.take(begin(toy.state))
    while not tour.done:
        toy.round()
        before, tour = tour, toy.take(next_step(tour, toy.state))
        share = toy.state.periods[0].shares[0]
        assert bool(tour.done) == (share.seconds >= LEAST_SECONDS), before


def test_while_it_waits_it_asks_for_nothing() -> None:
    toy = Toy(growing)
    tour = next_step(toy.take(begin(toy.state)), toy.state).tour
    assert next_step(tour, toy.state) == (tour, ())


@given(
    ranks=st.integers(1, 9),
    size=st.integers(1, 300),
    prompts=st.integers(1, 20_000),
    seconds=st.floats(0.3, 5.0),
    steep=st.dictionaries(st.tuples(st.integers(1, 9), st.integers(1, 600)), st.floats(0.1, 5.0), max_size=20),
)
def test_it_ends_at_the_best_setting_having_tried_each_once_and_none_beyond_the_ranks(
    ranks: int, size: int, prompts: int, seconds: float, steep: dict[tuple[int, int], float]
) -> None:
    toy = Toy(lambda r, s: 100 + growing(r, s) * steep.get((r, s), 1.0), ranks=ranks, size=size, prompts=prompts,
              seconds=seconds)  # fmt: skip
    if why_no_tour(toy.state) is not None:
        assert prompts < 2 * size * sum(steps_of_ranks(ranks))
        return
    tour = toy.tour()
    tried = walked(tour)
    assert len(set(tried)) == len(tried)
    assert all(1 <= active <= ranks and batch <= max(size, LARGEST) for active, batch in tried)
    walk = toy.settings[:-1] if toy.settings and toy.settings[-1] == tour.rests else toy.settings
    assert len(set(walk)) == len(walk), "each setting is asked for once before the last one is set"
    assert all(isinstance(command, SetActiveRanks | SetBatchSize) for command in toy.sent)
    if tour.best is not None:
        assert tour.best.rate == max(one.rate for one in tour.done)
    assert (toy.state.active_ranks, toy.state.batch_size) == tour.rests
    for one in tour.done[1:]:
        assert toy.cut[one.setting][0] >= LEAST_FULL * one.setting.batch_size, "no short batch is booked as a full one"
    if toy.state.pending:
        assert tour.rests == (tour.best.setting if tour.best is not None else (ranks, size))
    assert next_step(tour, toy.state) == (tour, ()), "after its end it asks for nothing"


# --- what ends it ---------------------------------------------------------------------------------


def test_the_last_batch_size_is_256() -> None:
    tour = Toy(growing).tour()
    assert (tour.why, walked(tour)[-1]) == ("largest", (2, LARGEST))


def test_no_setting_is_tried_that_too_few_prompts_are_left_for() -> None:
    toy = Toy(growing, prompts=100)
    tour = toy.tour()
    assert tour.why == "prompts"
    assert toy.state.pending < 2 * 2 * 2 * tour.now.batch_size
    assert tour.best is not None
    assert tour.best.setting == walked(tour)[-1]


def test_prompts_that_run_out_in_the_middle_end_it_and_nothing_is_asked_for_any_more() -> None:
    toy = Toy(growing, prompts=6, size=1, seconds=0.3)
    tour = toy.tour()
    assert (tour.why, tour.best, toy.state.pending) == ("ran out", None, 0)
    assert toy.sent == [SetActiveRanks(active_ranks=1)]
    assert tour.rests == (1, 1)


def test_after_the_last_prompt_the_best_is_said_and_not_set() -> None:
    toy = Toy(lambda ranks, size: 50.0 if ranks == 1 else 10.0, prompts=12, size=2)
    tour = toy.take(begin(toy.state))
    while not tour.over:
        toy.round()
        tour = toy.take(next_step(tour, toy.state))
    assert tour.best is not None
    assert (tour.why, tour.best.setting, toy.state.pending) == ("prompts", (1, 2), 0)
    assert (toy.state.active_ranks, len(toy.sent)) == (2, 2)


def test_memory_that_twice_the_rows_would_not_fit_in_ends_it() -> None:
    for free, reserved, fits in ((7, 10, False), (9, 10, True), (5, 12, False), (7, 12, True)):
        toy = Toy(growing, ranks=1, seconds=3.0)
        rank = toy.state.ranks[0]
        rank = msgspec.structs.replace(rank, peak_memory_bytes=10 * GIB, reserved_memory_bytes=reserved * GIB)
        sample = DeviceSample(index=0, uuid="u", name="x", memory_free_bytes=free * GIB)
        toy.change(ranks=(rank,), devices=(DeviceState(sample=sample, ranks=(0,)),))
        toy.round()
        move = next_step(begin(toy.state).tour, toy.state)
        # 2 GiB of the 10 are weights: twice the rows take 8 GiB more, less what the allocator keeps in reserve.
        assert (move.tour.why, bool(move.commands)) == ((None, True) if fits else ("memory", False))


def test_a_rank_that_ran_out_of_memory_ends_it_and_the_best_before_is_set() -> None:
    toy = Toy(growing, seconds=3.0)
    tour = toy.take(begin(toy.state))
    while tour.now != (2, 8):
        toy.round()
        tour = toy.take(next_step(tour, toy.state))
    toy.change(ranks=(toy.state.ranks[0], msgspec.structs.replace(toy.state.ranks[1], cap=4)))
    tour = toy.take(next_step(tour, toy.state))
    assert tour.why == "capped"
    assert (2, 8) not in walked(tour)
    assert toy.state.batch_size == 4


def test_the_continuous_engine_is_toured_by_ranks_only() -> None:
    toy = Toy(growing, ranks=4)
    toy.change(ranks=tuple(RankState(rank=rank, ready=ready(rank, engine="continuous")) for rank in range(4)))
    tour = toy.tour()
    assert walked(tour) == [(1, 2), (2, 2), (4, 2)]
    assert tour.why == "ranks only"
    toy.change(ranks=toy.state.ranks[:1])
    assert "continuous engine" in (why_no_tour(toy.state) or "")


def test_vllm_is_toured_by_ranks_and_batch_sizes_since_these_act_within_a_step() -> None:
    toy = Toy(growing, ranks=2)
    toy.change(ranks=tuple(RankState(rank=rank, ready=ready(rank, engine="vllm")) for rank in range(2)))
    assert (2, 8) in walked(toy.tour())
    toy.change(ranks=toy.state.ranks[:1])
    assert why_no_tour(toy.state) is None


REST: dict[str, Any] = {"model": "m", "prompts": "p", "ranks": 2}
SWEEP = SweepState(plan=SweepPlan(batch_sizes=[1], ranks=[1]), trials=())


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"paused": "asked for"}, "paused"),
        ({"paused": "the disk is full"}, None),
        ({"auto": True}, "search"),
        ({"sweep": SWEEP}, "sweep"),
        ({"phase": "stopping"}, "stopping"),
    ],
)
def test_what_others_do_with_the_run_ends_it(changes: dict[str, object], taken: str | None) -> None:
    toy = Toy(growing)
    tour = next_step(toy.take(begin(toy.state)), toy.state).tour
    toy.change(**changes)
    after, commands = next_step(tour, toy.state)
    assert (after.taken, after.over) == (taken, taken is not None)
    back = (SetActiveRanks(active_ranks=2),) if taken in ("paused", "search") else ()
    assert commands == back, "ranks that the tour has lowered go up again, unless no turn is heard any more"


@pytest.mark.parametrize("command", [SetBatchSize(batch_size=32), SetActiveRanks(active_ranks=2)])
def test_a_knob_turned_by_somebody_else_ends_it(command: Command) -> None:
    for confirmed in (True, False):
        toy = Toy(growing, ranks=3)
        move = begin(toy.state)
        tour = toy.take(move) if confirmed else move.tour
        if confirmed:
            tour = next_step(tour, toy.state).tour
        toy.obey(command)
        assert next_step(tour, toy.state).tour.taken == "elsewhere"


def test_a_run_that_ends_ends_it() -> None:
    toy = Toy(growing)
    tour = toy.take(begin(toy.state))
    for status, why in (("completed", "ran out"), ("stopped", "run stopped"), ("failed", "run failed")):
        ended = RunEnded(status=status, exit_status=1, summary=None)  # type: ignore[arg-type]
        move = next_step(tour, toy.change(ended=ended, phase="ended").state)
        assert (move.tour.why, move.commands) == (why, ())


def test_a_tour_that_is_over_keeps_to_what_its_settings_have_brought_by_now() -> None:
    toy = Toy(flat_from_8)
    tour = toy.tour()
    assert tour.best is not None
    toy.rates = lambda ranks, size: 2 * flat_from_8(ranks, size)
    toy.round()
    later = up_to_date(tour, toy.state)
    rows = {(row.active_ranks, row.batch_size): row.tokens_per_second for row in all_settings(toy.state)}
    assert [one.rate for one in later.done] == [rows[one.setting] for one in tour.done]
    assert later.best is not None
    assert later.best.rate > tour.best.rate
    assert (later.why, later.rests) == (tour.why, tour.rests)


def test_the_user_takes_over_once() -> None:
    toy = Toy(growing)
    tour = taken_over(begin(toy.state).tour, toy.state).tour
    assert (tour.over, tour.taken) == (True, "by hand")
    assert taken_over(tour, toy.state, "sweep") == (tour, ())
    assert next_step(tour, toy.state) == (tour, ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ready_at": None}, "not all ranks are ready"),
        ({"phase": "loading"}, "not all ranks are ready"),
        ({"phase": "stopping"}, "stopping"),
        ({"sweep": SWEEP}, "a sweep is running"),
        ({"auto": True}, "the search for the best batch size"),
        ({"paused": "asked for"}, "paused"),
        ({"completed": 100_000}, "every prompt is answered"),
        ({"completed": 99_998}, "too few prompts are left to measure 1 to 2 ranks at batch size 2"),
        ({"ranks": (RankState(rank=0, ready=ready(0)), RankState(rank=1, ready=ready(1), cap=1))}, "rank 1 ran out of"),
        ({"config": RunConfig(dispatch="split", **REST)}, "split"),
    ],
)
def test_where_none_can_begin_the_reason_is_said(changes: dict[str, object], said: str) -> None:
    assert said in (why_no_tour(Toy(growing).change(**changes).state) or "")


def test_a_walk_of_ranks_that_the_prompts_cannot_pay_for_does_not_begin() -> None:
    assert "too few prompts" in (why_no_tour(Toy(growing, ranks=8, size=16, prompts=44).state) or "")
    least = 2 * 16 * (1 + 2 + 4 + 8)
    assert why_no_tour(Toy(growing, ranks=8, size=16, prompts=least).state) is None
    assert why_no_tour(Toy(growing, ranks=8, size=16, prompts=least - 1).state) is not None
    short = Toy(growing, ranks=8, size=16, prompts=2 * least, seconds=0.3)
    short.round()
    assert "too few prompts" in (why_no_tour(short.state) or ""), "batches of 0.3 s: two seconds are seven rounds"


# --- where it leaves the knobs --------------------------------------------------------------------


def test_out_of_memory_in_its_first_step_it_goes_back_to_where_it_began() -> None:
    toy = Toy(growing, ranks=4)
    tour = toy.take(begin(toy.state))
    toy.change(ranks=(msgspec.structs.replace(toy.state.ranks[0], cap=1), *toy.state.ranks[1:]))
    tour = toy.take(next_step(tour, toy.state))
    assert (tour.why, tour.best, tour.rests) == ("capped", None, (4, 2))
    assert toy.state.active_ranks == 4


def test_if_all_ranks_were_never_reached_it_goes_back_to_where_it_began() -> None:
    toy = Toy(growing, ranks=8, seconds=0.5, prompts=100)
    tour = toy.tour()
    assert tour.why in ("prompts", "ran out")
    assert max(active for active, _ in walked(tour)) < 8
    assert (tour.best, tour.rests, toy.state.active_ranks) == (None, (8, 2), 8)


def test_what_the_start_has_brought_already_counts() -> None:
    toy = Toy(growing, ranks=8, prompts=1000, seconds=3.0)
    toy.round()
    tour = toy.take(begin(toy.state))
    while len(tour.done) < 2:
        toy.round()
        tour = toy.take(next_step(tour, toy.state))
    assert walked(tour) == [(1, 2), (2, 2)]
    assert tour.best is not None
    assert tour.best.setting == (8, 2), "all ranks were measured before it began, and only two since"
    while not tour.over:
        toy.change(completed=toy.state.prompts - 4)
        toy.round()
        tour = toy.take(next_step(tour, toy.state))
    assert tour.rests[0] > 2 if tour.rests else False, "it does not settle on few ranks"


def test_a_refused_turn_of_its_own_ends_it_and_one_of_others_does_not() -> None:
    toy = Toy(growing, seconds=3.0)
    tour = toy.take(begin(toy.state))
    other = toy.change(refusal=TurnRefused(at=1.0, reason="of somebody else's")).state
    tour = next_step(tour, other).tour
    assert not tour.over
    toy.round()
    move = next_step(tour, toy.state)
    assert move.commands == (SetActiveRanks(active_ranks=2),)
    assert not next_step(move.tour, toy.state).tour.over, "the same refusal as before"
    toy.change(refusal=TurnRefused(at=9.0, reason="no prompt is left"))
    tour, commands = next_step(move.tour, toy.state)
    assert (tour.why, tour.rests, commands) == ("refused", (2, 2), (SetActiveRanks(active_ranks=2),))


@pytest.mark.parametrize("heard", [True, False])
def test_who_takes_a_knob_gets_back_the_ranks_unless_it_is_that_knob(heard: bool) -> None:
    toy = Toy(growing, ranks=4)
    move = begin(toy.state)
    tour = next_step(toy.take(move), toy.state).tour if heard else move.tour
    back = (SetActiveRanks(active_ranks=4),)
    assert taken_over(tour, toy.state).commands == back
    assert taken_over(tour, toy.state, "left").commands == back
    assert taken_over(tour, toy.state, ranks_too=True).commands == ()


def test_all_ranks_come_back_while_the_turn_to_two_of_them_is_on_its_way() -> None:
    toy = Toy(growing, ranks=4, seconds=3.0)
    tour = toy.take(begin(toy.state))
    toy.round()
    move = next_step(tour, toy.state)
    assert move.commands == (SetActiveRanks(active_ranks=2),)
    assert taken_over(move.tour, toy.state).commands == (SetActiveRanks(active_ranks=4),)


def test_somebody_elses_ranks_stay_and_somebody_elses_batch_size_brings_the_ranks_back() -> None:
    for command, sent in (
        (SetActiveRanks(active_ranks=3), ()),
        (SetBatchSize(batch_size=32), (SetActiveRanks(active_ranks=4),)),
    ):
        toy = Toy(growing, ranks=4)
        tour = next_step(toy.take(begin(toy.state)), toy.state).tour
        toy.obey(command)
        assert next_step(tour, toy.state).commands == sent
        toy = Toy(growing, ranks=4)
        move = begin(toy.state)
        toy.obey(command)  # before the tour's own command is heard
        wanted = 3 if isinstance(command, SetActiveRanks) else 4
        assert next_step(move.tour, toy.state).commands == (SetActiveRanks(active_ranks=wanted),)


def test_who_leaves_gets_the_best_setting_so_far() -> None:
    toy = Toy(flat_from_8, seconds=3.0, size=4)
    tour = toy.take(begin(toy.state))
    while tour.now != (2, 16):
        toy.round()
        tour = toy.take(next_step(tour, toy.state))
    left, commands = taken_over(next_step(tour, toy.state).tour, toy.state, "left")
    assert (left.rests, commands) == ((2, 8), (SetBatchSize(batch_size=8),))


def test_short_batches_are_not_booked_as_full_ones() -> None:
    for prompts in range(100, 600, 7):
        toy = Toy(growing, prompts=prompts)
        for one in toy.tour().done:
            assert min(toy.cut[one.setting][:2]) >= LEAST_FULL * one.setting.batch_size


def test_no_command_of_a_tour_stops_or_sweeps() -> None:
    toy = Toy(growing)
    toy.tour()
    assert not any(isinstance(command, Stop | StartSweep) for command in toy.sent)
