"""Which verdict is held: no sample, no noise of a figure and no turn of a knob makes it flip."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner.state.load import Load, LoadMeans, Mean
from rankdeck.runner.state.votes import (
    BUSY,
    BUSY_CPU,
    HELD_SECONDS,
    LEAST_SAMPLES,
    Circumstances,
    Held,
    Kind,
    held_after,
    leading,
    vote,
)

LAUNCHES: Kind = "kernel launches"
READS: Kind = "memory bandwidth"
CPU: Kind = "the CPU"
SEVERAL: Kind = "several things in turn"


def samples(number: int, period: int | None = 3, **figures: float) -> list[Load]:
    """The newest is of second 100."""
    return [Load(100.0 - back, 1, 1, period=period, **figures) for back in reversed(range(number))]


def after(held: Held, *votes: Kind, period: int | None = 3, now: float = 100.0) -> Held:
    """What is held after samples with these votes, all of this period, in period 3."""
    loads = [Load(now - back, 1, 1, period=period) for back in reversed(range(len(votes)))]
    return held_after(held, loads, votes, 3)


# --- until another has the majority for some seconds -------------------------------------------------


def test_the_first_majority_is_held_at_once_and_none_before_there_are_enough_samples() -> None:
    assert after(Held(), *[READS] * (LEAST_SAMPLES - 1)).kind is None
    assert after(Held(), *[READS] * LEAST_SAMPLES).kind == READS


def test_another_takes_its_place_after_seconds_of_majority() -> None:
    held = Held(READS, period=3)
    rival = after(held, *[LAUNCHES] * 8, now=100.0)
    assert (rival.kind, rival.rival, rival.since) == (READS, LAUNCHES, 100.0)
    still = after(rival, *[LAUNCHES] * 8, now=100.0 + HELD_SECONDS - 0.1)
    assert still.kind == after(rival, *[LAUNCHES] * 8, now=103.0).kind == READS
    assert after(still, *[LAUNCHES] * 8, now=100.0 + HELD_SECONDS).kind == LAUNCHES


def test_a_rival_that_loses_its_majority_begins_anew() -> None:
    rival = after(Held(READS, period=3), *[LAUNCHES] * 8, now=100.0)
    again = after(rival, *[READS] * 8, now=102.0)
    assert (again.kind, again.rival) == (READS, None)
    assert after(again, *[LAUNCHES] * 8, now=110.0).kind == READS
    assert after(rival, *[CPU] * 8, now=110.0) == Held(READS, CPU, 110.0, 3), "another rival"


def test_several_things_in_turn_take_its_place_only_if_it_has_few_votes_left() -> None:
    assert after(Held(READS, SEVERAL, 90.0, 3), *[READS] * 3, *[LAUNCHES] * 4, *[CPU] * 3).kind == READS
    assert after(Held(READS, SEVERAL, 90.0, 3), *[READS] * 2, *[LAUNCHES] * 4, *[CPU] * 4).kind == SEVERAL


@pytest.mark.parametrize("held", [None, "unknown", SEVERAL])
def test_what_is_no_verdict_gives_way_at_once(held: Kind | None) -> None:
    assert after(Held(held, period=3), *[READS] * 5).kind == READS


KINDS = st.sampled_from([LAUNCHES, READS, CPU])


@given(st.lists(st.lists(KINDS, min_size=12, max_size=12), max_size=30))
def test_within_a_setting_a_verdict_is_held_for_seconds_whatever_the_samples(seconds: list[list[Kind]]) -> None:
    held, since = after(Held(), *[READS] * 12), 100
    for second, votes in enumerate(seconds, 101):
        before, held = held.kind, after(held, *votes, now=float(second))
        if held.kind != before:
            assert before == SEVERAL or second - since >= HELD_SECONDS
            since = second


# --- turns of a knob ---------------------------------------------------------------------------------


def test_after_a_turn_it_holds_until_enough_samples_of_the_new_setting_say_other_which_then_counts_at_once() -> None:
    held = Held(READS, period=2)
    old = samples(8, period=2)
    for new in range(LEAST_SAMPLES):
        loads = [*old, *samples(new)]
        assert held_after(held, loads, [READS] * 8 + [LAUNCHES] * new, 3).kind == READS
    loads = [*old, *samples(LEAST_SAMPLES)]
    assert held_after(held, loads, [READS] * 8 + [LAUNCHES] * LEAST_SAMPLES, 3) == Held(LAUNCHES, period=3)


def test_settings_that_last_too_short_to_judge_by_are_judged_together() -> None:
    loads = [*samples(2, period=1), *samples(2, period=2), *samples(2, period=None)]
    assert held_after(Held(), loads, [READS] * 4 + [CPU] * 2, 3).kind == READS, "two are of none of the settings"
    assert held_after(Held(), loads[2:], [CPU] * 4, 3).kind == CPU, "but they count where there are no others"


def test_without_samples_of_the_new_setting_nothing_becomes_unknown() -> None:
    assert after(Held(READS, period=2), *["unknown"] * 8, period=2) == Held(READS, period=2)  # type: ignore[list-item]


def test_the_figures_of_the_samples_that_said_so_are_kept() -> None:
    loads = [*samples(3, cpu=50.0), *samples(1, cpu=98.0)]
    found = held_after(Held(), loads, [CPU] * 3 + ["unknown"], 3)
    assert (found.kind, found.load.cpu) == (CPU, Mean(150.0, 3))
    assert held_after(found, [], [], 4).load.cpu == Mean(150.0, 3)
    assert Held().load == LoadMeans()


# --- figures near a bound ------------------------------------------------------------------------------


def on_cpu(percent: float, held: Kind | None, **more: float) -> Kind:
    case = Circumstances(on_gpu=False, measured=True, held=held, **{"mbu": 0.1, "matrix_share": 0.1, **more})  # type: ignore[arg-type]
    return vote(Load(1.0, 1, 1, cpu=percent), case)


def on_gpu(held: Kind | None, busy: float = 98.0, dram: float = 20.0, tensor: float = 4.0, **more: float) -> Kind:
    case = Circumstances(on_gpu=True, measured=True, held=held, **more)  # type: ignore[arg-type]
    return vote(Load(1.0, 1, 1, busy=busy, dram=dram, tensor=tensor, capped=more.pop("capped", 0.0)), case)


@pytest.mark.parametrize("near", [BUSY_CPU * 0.94, BUSY_CPU, BUSY_CPU * 1.06])
def test_near_its_bound_a_figure_votes_for_what_is_held(near: float) -> None:
    assert on_cpu(near, "the CPU") == "the CPU"
    assert on_cpu(near, "fixed cost per step") == "fixed cost per step"
    assert on_gpu("the CPU", busy=near / BUSY_CPU * BUSY) == "the CPU"
    assert on_gpu(LAUNCHES, busy=near / BUSY_CPU * BUSY) == LAUNCHES


def test_beyond_its_margin_it_does_not() -> None:
    assert on_cpu(BUSY_CPU * 1.1, "the CPU") == "fixed cost per step"
    assert on_cpu(BUSY_CPU * 0.9, "fixed cost per step") == "the CPU"


@pytest.mark.parametrize(
    ("held", "figures"),
    [
        (READS, {"dram": 57.0}), (LAUNCHES, {"dram": 63.0}),
        ("compute", {"tensor": 38.0}), (LAUNCHES, {"tensor": 42.0}),
        ("uneven lengths", {"padding_waste": 0.38}), (LAUNCHES, {"padding_waste": 0.42}),
        (READS, {"mbu": 0.47}), (LAUNCHES, {"mbu": 0.53}), ("compute", {"matrix_share": 0.38}),
    ],
)  # fmt: skip
def test_every_bound_has_a_margin_on_both_sides(held: Kind, figures: dict[str, float]) -> None:
    assert on_gpu(held, **figures) == held


# --- before a whole batch of the setting ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "cpu", "votes"),
    [
        ("fixed cost per step", 97.0, "fixed cost per step"), (READS, 97.0, READS), ("compute", 97.0, "compute"),
        ("uneven lengths", 97.0, "uneven lengths"), ("fixed cost per step", 50.0, "the CPU"),
        ("the CPU", 97.0, "unknown"), (None, 97.0, "unknown"), (LAUNCHES, 97.0, "unknown"),
    ],
)  # fmt: skip
def test_until_then_what_is_held_goes_on_where_no_counter_speaks_against_it(held, cpu, votes) -> None:
    assert vote(Load(1.0, 1, 1, cpu=cpu), Circumstances(on_gpu=False, held=held)) == votes


@pytest.mark.parametrize(
    ("held", "figures", "votes"),
    [
        (READS, {"busy": 98.0}, READS), (READS, {"busy": 98.0, "dram": 20.0}, "unknown"), (READS, {"busy": 30.0}, CPU),
        ("compute", {"busy": 98.0}, "compute"), ("compute", {"busy": 98.0, "dram": 20.0, "tensor": 4.0}, LAUNCHES),
        (LAUNCHES, {"busy": 98.0}, LAUNCHES), ("uneven lengths", {"busy": 98.0}, "uneven lengths"),
    ],
)  # fmt: skip
def test_so_it_does_on_gpus_without_counters(held, figures, votes) -> None:
    assert vote(Load(1.0, 1, 1, **figures), Circumstances(on_gpu=True, held=held)) == votes


def test_a_power_limit_of_one_gpu_at_a_time_counts_as_of_all() -> None:
    case = Circumstances(on_gpu=True, gpus_per_rank=4.0)
    assert vote(Load(1.0, 1, 1, busy=24.0, capped=0.25), case) == "the power limit"


def test_a_majority_is_clear_with_six_of_ten() -> None:
    assert leading([READS] * 6 + [LAUNCHES] * 4) == READS
    assert leading([READS] * 5 + [LAUNCHES] * 5) == SEVERAL
