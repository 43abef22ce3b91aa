"""Each rule of advice on both sides of its bound, word for word, and the order in which rules speak."""

import msgspec
import pytest

from rankdeck.runner.advice import advice
from rankdeck.runner.advice.advice import KnobEffect, advise, early_turn, last_turn
from rankdeck.runner.forecast.forecast import WhatIf
from rankdeck.runner.machine.gpu_metrics import THROTTLE_REASONS
from rankdeck.runner.protocol import RunEnded
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan, SweepState
from rankdeck.runner.state import Mark, RankState, RunState, summarise
from rankdeck.runner.state.periods import KnobPeriod, RankShare
from tests.runner.advice.test_advice import GIB, device, ready, running, said
from tests.runner.advice.test_edges import kinds, of
from tests.runner.forecast.test_cost_model import point

# --- rounds ---


@pytest.mark.parametrize(
    ("ranks", "size", "prompts", "text"),
    [
        (1, 10, 16, "1 rank at batch size 10 needs 2 rounds for 16 prompts; batch size 16 needs 1."),
        (1, 10, 17, None),
        (1, 10, 10, None),
        (2, 1000, 5000, "2 ranks at batch size 1000 need 3 rounds for 5,000 prompts; batch size 1250 needs 2."),
        (2, 10, 66, "2 ranks at batch size 10 need 4 rounds for 66 prompts; batch size 11 needs 3."),
        (2, 10, 81, None),
    ],
)
def test_a_size_that_saves_a_round_is_told_if_it_is_not_much_larger(ranks, size, prompts, text):
    assert said(running(ranks, batch_size=size, prompts=prompts)) == ([] if text is None else [text])


@pytest.mark.parametrize(
    "why_not", [{"config": None}, {"ready_at": None}, {"auto": True}, {"active_ranks": 0}, {"prompts": 0}], ids=str
)
def test_rounds_that_mean_nothing_are_not_counted(why_not):
    state = running(1, batch_size=10, prompts=16)
    assert len(list(advice.uneven_rounds(state))) == 1
    assert list(advice.uneven_rounds(msgspec.structs.replace(state, **why_not))) == []


def test_a_continuous_run_has_no_rounds():
    (rank,) = running(1).ranks
    flowing = msgspec.structs.replace(rank, ready=ready(0, engine="continuous"))
    assert list(advice.uneven_rounds(running(1, batch_size=10, prompts=16, ranks=(flowing,)))) == []


# --- turns of a knob ---


def turn(
    change: float, *, ranks: int = 2, size: int = 16, guessed: bool = False, steady: float | None = None
) -> WhatIf:
    return WhatIf(
        active_ranks=ranks, batch_size=size, tokens_per_second=1.0, change_percent=change,
        steady_tokens_per_second=1.0, steady_percent=change if steady is None else steady, seconds_left=1.0,
        extrapolated=guessed,
    )  # fmt: skip


TWO_SIZES = (point(16, ranks=2), point(20, ranks=2))


@pytest.fixture
def turns(monkeypatch):
    """The turns that are possible, as the forecast would have them."""

    def are(*possible: WhatIf) -> None:
        monkeypatch.setattr(advice, "what_if", lambda state: list(possible))

    return are


def turned(**changes: object) -> list[str]:
    return [one.text for one in advise(running(**{"costs": TWO_SIZES, **changes})) if one.kind == "turn"]


@pytest.mark.parametrize(
    ("possible", "text"),
    [
        ([turn(9.9, size=32)], None),
        (
            [turn(10.0, size=32)],
            "Batch size 32 would bring 10% more tok/s (predicted).",
        ),
        (
            [turn(12.0, size=8), turn(30.4, ranks=1), turn(20.0, ranks=3)],
            "1 rank would bring 30% more tok/s (predicted).",
        ),
        (
            [turn(12.0, size=8), turn(20.0, ranks=3)],
            "3 ranks would bring 20% more tok/s (predicted).",
        ),
        (
            [turn(15.0, size=8), turn(40.0, size=32, guessed=True)],
            "Batch size 32 would bring about 40% more tok/s (a guess).",
        ),
        (
            [turn(15.0, size=8), turn(40.0, ranks=3, guessed=True)],
            "Batch size 8 would bring 15% more tok/s (predicted).",
        ),
        ([], None),
    ],
)
def test_the_turn_that_brings_most_is_told_if_it_was_measured_or_nearly(turns, possible, text):
    turns(*possible)
    assert turned() == ([] if text is None else [text])


def test_a_guess_needs_batches_of_two_sizes_on_as_many_ranks(turns):
    turns(turn(40.0, size=32, guessed=True))
    assert len(turned()) == 1
    assert turned(costs=(point(16, ranks=2), point(19, ranks=2))) == [], "that is about one size"
    assert turned(costs=(point(16, ranks=2), point(64, ranks=1))) == [], "on one rank, not two"
    assert turned(costs=()) == []


def test_near_the_wall_only_larger_batches_are_kept_back(turns):
    capped = (running().ranks[0], msgspec.structs.replace(running().ranks[1], cap=16))
    for one, told in ((turn(50.0, size=17), 0), (turn(50.0, size=16, ranks=3), 1), (turn(50.0, size=8), 1)):
        turns(one)
        assert len(turned(ranks=capped)) == told
        assert len(turned()) == 1


def test_a_turn_is_worth_it_while_two_of_its_rounds_are_left_and_something_was_measured(turns):
    turns(turn(50.0, size=32))
    assert len(turned(completed=1000 - 128)) == 1
    assert turned(completed=1000 - 127) == []
    for why_not in ({"auto": True}, {"paused": "asked for"}, {"phase": "stopping"}):
        assert turned(**why_not) == []
    few = tuple(
        msgspec.structs.replace(rank, batches=batches) for rank, batches in zip(running().ranks, (1, 3), strict=False)
    )
    assert len(turned(ranks=few)) == 1, "two for each rank, on the mean"
    assert turned(ranks=(few[0], msgspec.structs.replace(few[1], batches=2))) == []


# --- padding and idle ---


def test_padding_is_waste_above_its_bound_and_with_batches_enough():
    def wasted(slots: int, order: str = "length", batches: int = 2) -> list[str]:
        ranks = (RankState(rank=0, batches=batches, busy_seconds=59.0),)
        config = RunConfig(prompts="p", order=order)  # type: ignore[arg-type]
        return said(running(1, config=config, ranks=ranks, slots=1000, padded_slots=slots))

    assert wasted(350) == []
    assert wasted(351) == ["Padding waste is 35% of all token slots; a smaller batch size wastes less."]
    assert wasted(600, "input") == [
        "Padding waste is 60% of all token slots; --order length puts like lengths together."
    ]
    assert wasted(600, batches=1) == []


@pytest.mark.parametrize(
    ("busy", "now", "batches", "told"),
    [(51.1, 60.0, 2, False), (50.9, 60.0, 2, True), (50.9, 60.0, 1, False), (16.0, 20.0, 2, True),
     (16.0, 19.9, 2, False)],
)  # fmt: skip
def test_idle_time_is_told_above_its_bound_after_a_while(busy, now, batches, told):
    ranks = (RankState(rank=0, batches=5, busy_seconds=now), RankState(rank=1, batches=batches, busy_seconds=busy))
    assert ("idle" in kinds(running(ranks=ranks, now=now))) is told


def test_of_several_idle_ranks_the_first_is_told():
    ranks = tuple(RankState(rank=rank, batches=5, busy_seconds=busy) for rank, busy in enumerate((60.0, 30.0, 15.0)))
    assert said(running(3, ranks=ranks)) == ["Rank 1 had no batch in hand for 50% of its time."]


def test_a_mark_that_explains_nothing_excuses_no_idle_time():
    ranks = (running().ranks[0], RankState(rank=1, batches=4, busy_seconds=9.0))
    state = running(ranks=ranks, marks=(Mark(elapsed=1.0, kind="batch size", text=""),))
    assert kinds(state) == ["idle"]


# --- devices ---


@pytest.mark.parametrize(("busy", "used", "told"), [(60.0, 8, False), (59.9, 8, True), (10.0, 40, False),
                                                    (10.0, 39, True), (10.0, None, False)])  # fmt: skip
def test_a_gpu_is_lazy_below_both_bounds(busy, used, told):
    lazy = device(busy=busy, memory_used_bytes=None if used is None else used * GIB)
    assert ("busy low" in kinds(running(devices=(lazy,)))) is told


def test_of_several_lazy_gpus_the_first_that_a_rank_is_on_is_told():
    lazy = [device(index=number, busy=40.0, memory_used_bytes=8 * GIB) for number in (4, 5, 6)]
    state = running(devices=(of(lazy[0], ranks=()), *lazy[1:]))
    assert said(state) == ["GPU 5 is busy 40% and 90% of its memory is free: try a larger batch size."]
    assert said(msgspec.structs.replace(state, phase="loading")) == []


@pytest.mark.parametrize(("used", "told"), [(920, False), (921, True)])
def test_memory_is_nearly_full_above_its_bound(used, told):
    full = device(memory_used_bytes=used, memory_total_bytes=1000)
    assert said(running(devices=(full,))) == (["GPU 3 has 92% of its memory in use: near the wall."] if told else [])


def test_one_sentence_about_memory_is_enough_and_a_full_gpu_comes_before_a_capped_rank():
    full = [device(index=number, memory_used_bytes=77 * GIB) for number in (2, 4)]
    ranks = tuple(msgspec.structs.replace(rank, cap=8 + rank.rank) for rank in running().ranks)
    assert said(running(ranks=ranks, devices=tuple(full))) == ["GPU 2 has 96% of its memory in use: near the wall."]
    assert said(running(ranks=ranks)) == ["Rank 0 ran out of memory and gets at most 8 prompts per batch."]
    unknown = device(memory_total_bytes=None, memory_used_bytes=77 * GIB), device(memory_used_bytes=None)
    assert said(running(devices=unknown)) == []


@pytest.mark.parametrize(
    ("clock", "most", "said_of_it"),
    [
        (980, 1000, None),
        (979, 1000, " at 979 of 1000 MHz"),
        (None, 1000, ""),
        (979, None, ""),
    ],
)
def test_a_throttled_gpu_is_told_where_it_lowers_the_clock_or_nobody_knows(clock, most, said_of_it):
    hot = device(throttle_reasons=["power cap", "idle", "thermal"], sm_clock_mhz=clock, sm_clock_max_mhz=most)
    words = f"GPU 3 is throttled (power cap, thermal){said_of_it}."
    assert said(running(devices=(hot,))) == ([] if said_of_it is None else [words])


def test_reasons_that_do_no_harm_are_words_that_the_driver_has():
    assert set(THROTTLE_REASONS.values()) > advice.HARMLESS_THROTTLES
    for word in THROTTLE_REASONS.values():
        hot = device(throttle_reasons=[word])
        harmless = word in ("idle", "application clocks", "sync boost", "display clocks")
        assert said(running(devices=(hot,))) == ([] if harmless else [f"GPU 3 is throttled ({word})."]), word


@pytest.mark.parametrize(
    ("own", "held", "words"),
    [
        ((1,), 3 * GIB, None),
        ((1,), 3 * GIB + 2**28, "GPU 3 had 2.2 GiB in use beside the model: another process?"),
        ((8,), 16 * GIB, None),
        ((8,), 17 * GIB, "GPU 3 had 9.0 GiB in use beside the model: another process?"),
        ((1, 1), 6 * GIB, None),
        ((1, 1), 7 * GIB, "GPU 3 had 5.0 GiB in use beside the model: another process?"),
    ],
)
def test_memory_beside_the_models_is_told_above_their_own_or_two_gigabytes_a_rank(own, held, words):
    ranks = tuple(
        msgspec.structs.replace(
            rank,
            ready=ready(
                rank.rank,
                parameter_bytes=own[rank.rank] * GIB,
                memory_total_bytes=80 * GIB,
                memory_free_bytes=80 * GIB - (held if rank.rank == 0 else 0),
            ),
        )
        for rank in running(len(own)).ranks
    )
    here = of(device(), ranks=tuple(range(len(own))))
    state = running(len(own), ranks=ranks, devices=(here,))
    assert said(state) == ([] if words is None else [words])
    assert said(msgspec.structs.replace(state, devices=(device(memory_used_bytes=None),))) == []


@pytest.mark.parametrize("known", [{"memory_total_bytes": 80 * GIB}, {"memory_free_bytes": 40 * GIB}, {}], ids=str)
def test_memory_beside_the_models_is_not_told_where_it_is_not_known(known):
    ranks = tuple(msgspec.structs.replace(rank, ready=ready(rank.rank, **known)) for rank in running().ranks)
    assert said(running(ranks=ranks, devices=(device(),))) == []


def test_of_several_gpus_the_first_that_others_use_is_told():
    crowded = ready(1, memory_total_bytes=80 * GIB, memory_free_bytes=40 * GIB)
    ranks = (running().ranks[0], msgspec.structs.replace(running().ranks[1], ready=crowded))
    gpus = tuple(of(device(index=number), ranks=(rank,)) for number, rank in ((5, 0), (6, 1), (7, 1)))
    assert said(running(ranks=ranks, devices=gpus)) == ["GPU 6 had 38.0 GiB in use beside the model: another process?"]


# --- all rules ---


def all_at_once(**changes: object) -> RunState:
    """A run of which nearly every rule has something to say."""
    state = running(3, prompts=100, batch_size=16, **changes)
    crowded = ready(0, memory_total_bytes=80 * GIB, memory_free_bytes=40 * GIB)
    ranks = (
        msgspec.structs.replace(state.ranks[0], ready=crowded, cap=16),
        state.ranks[1],
        msgspec.structs.replace(state.ranks[2], busy_seconds=9.0),
    )
    lazy = device(busy=10.0, memory_used_bytes=GIB, throttle_reasons=["power cap"])
    wasted = {"slots": 100, "padded_slots": 50}
    return msgspec.structs.replace(state, ranks=ranks, devices=(lazy,), costs=(point(16, ranks=3),), **wasted)


def test_rules_speak_in_this_order_the_most_useful_first(turns):
    turns(turn(50.0, ranks=2))
    assert kinds(all_at_once()) == [
        "memory", "throttling", "foreign process", "rounds", "turn", "busy low", "idle", "padding",
    ]  # fmt: skip
    assert [rule.__name__ for rule in advice.RULES[:3]] == ["_memory", "_slow_rank", "_starved"]


@pytest.mark.parametrize(
    ("outputs", "settled", "speaks"),
    [(True, None, False), (False, None, False), (False, "all are over", False), (True, "all are over", True)],
)
def test_there_is_no_advice_while_a_sweep_turns_the_knobs_or_after_one_that_is_all_there_was(
    turns, outputs, settled, speaks
):
    turns()
    plan = SweepPlan(batch_sizes=[1], ranks=[1], outputs=outputs)
    sweep = SweepState(plan=plan, trials=(), settled=settled)
    assert bool(kinds(all_at_once(sweep=sweep))) is speaks


# --- what a turn brought ---

MEASURED = KnobPeriod(batch_size=4, active_ranks=1, shares={0: RankShare(1, 100, 1.0)})
EMPTY, NOW = (KnobPeriod(batch_size=size, active_ranks=1) for size in (8, 16))


def test_of_several_measured_periods_the_last_is_compared_with():
    other = msgspec.structs.replace(MEASURED, batch_size=5)
    trial = msgspec.structs.replace(MEASURED, trial=True)
    assert last_turn(running(periods=(MEASURED, other, trial, EMPTY, NOW))) == KnobEffect(before=other, after=NOW)
    assert last_turn(running(periods=())) is None
    assert last_turn(running(periods=(EMPTY, MEASURED))) is None, "what came before was not measured"


def test_a_turn_that_came_early_is_told_only_while_nothing_can_be_compared():
    assert early_turn(running(periods=(EMPTY, NOW))) == KnobEffect(before=EMPTY, after=NOW)
    assert early_turn(running(periods=(NOW,))) is None
    assert early_turn(running(periods=(EMPTY, NOW), auto=True)) is None
    assert early_turn(running(periods=(MEASURED, NOW))) is None
    assert early_turn(running(periods=(MEASURED, EMPTY, NOW))) is None
    over = RunEnded(status="completed", exit_status=0, summary=summarise(running()))
    assert early_turn(running(periods=(EMPTY, NOW), ended=over)) is None
