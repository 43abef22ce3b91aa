"""The order of the steps, and which of them are begun, with a clock that the test sets."""

from pathlib import Path

import pytest

from tests.gpu import measure, plan
from tests.gpu.__main__ import Run
from tests.gpu.bench import Bench, StepError
from tests.gpu.plan import STEPS, Step, Taken

SWEEP = Step("static", "sweep", 60, "7B", batch_sizes=(1, 16))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Simulated(Run):
    """A run whose steps take as long as `factor` times their plan, and measure nothing."""

    def __init__(self, out: Path, budget: float, gpus: int, factor: float) -> None:
        self.clock, self.factor, self.begun = Clock(), factor, []
        super().__init__(out, budget, "cuda", gpus, self.clock)

    def _do(self, bench: Bench, step: Step) -> None:
        self.begun.append(step.name)
        if step.size and step.size not in self._models:
            self._models[step.size] = object()
            most = plan.allowed_for_model(step.size, self.left)
            self.clock.now += min(most, self.factor * plan.MODEL_SECONDS[step.size])
        with self._timed(step) as seconds:
            self.clock.now += min(seconds, self.factor * step.seconds)
            if self.factor * step.seconds > seconds:
                raise StepError(f"given up after {seconds:.0f} s")


def flown(tmp_path: Path, *, gpus: int = 1, factor: float = 1.0, before: float = 0.0) -> Simulated:
    """The default budget of so many GPUs, of which `before` seconds are gone when the first step begins."""
    run = Simulated(tmp_path, plan.budget(gpus), gpus, factor)
    run.clock.now += before
    run.go(plan.select(None, gpus), tmp_path, tmp_path)
    return run


ON_ONE = plan.select(None, gpus=1)


def test_the_tests_come_first_then_the_eight_named_cases_of_the_large_model() -> None:
    first = [step for step in ON_ONE if step.size in ("", "7B")][:6]
    assert ON_ONE[:6] == first
    assert first[0].kind == "tests"
    cases = {(step.engine, rows, max(step.ranks)) for step in first[1:4] for rows in step.batch_sizes}
    cases |= {(step.engine, step.batch_sizes[-1], max(step.ranks), step.kind == "watch") for step in first[4:]}
    static = {("static", rows, 1) for rows in (1, 16, 64, 256)}
    others = {("article", 16, 1), ("continuous", 64, 1), ("static", 64, 2, False), ("static", 64, 1, True)}
    assert cases == static | others


def test_the_named_cases_and_those_by_generate_fit_into_the_nine_minutes_of_one_gpu(tmp_path: Path) -> None:
    run = flown(tmp_path, before=15.0)  # to ask torch, and for what is a little late
    assert run.begun[:7] == [*(step.name for step in ON_ONE[:6]), "by generate"]
    assert run.left >= 0
    assert plan.BUDGET < 9 * 60


@pytest.mark.parametrize("gpus", [2, 8])
def test_how_it_scales_is_measured_on_several_gpus_even_if_all_before_is_a_fifth_late(
    tmp_path: Path, gpus: int
) -> None:
    run = flown(tmp_path, gpus=gpus, factor=1.2)
    assert run.begun[5:7] == ["scaling", "watching"]
    assert run.left >= 0
    assert not run.went_wrong


@pytest.mark.parametrize("factor", [0.2, 1.0, 1.5, 3.0, 10.0])
def test_the_run_ends_within_its_budget_on_a_slow_machine_too(tmp_path: Path, factor: float) -> None:
    run = flown(tmp_path, factor=factor)
    assert run.left >= 0
    assert run.begun[0] == "tests"


def test_both_recordings_are_among_the_named_cases() -> None:
    assert [step.recording for step in STEPS if step.recording] == ["sweep", "run"]
    assert all(step in ON_ONE[:6] for step in STEPS if step.recording)


def test_a_step_is_expected_to_take_what_the_slowest_of_its_kind_took() -> None:
    assert plan.expected(SWEEP, [], with_model=False) == 60
    assert plan.expected(SWEEP, [], with_model=True) == 60 + plan.MODEL_SECONDS["7B"]
    taken = [Taken(Step("a", "sweep", 10), 20), Taken(Step("b", "sweep", 10), 5), Taken(Step("c", "watch", 10), 99)]
    assert plan.expected(SWEEP, taken, with_model=False) == 120


def test_a_step_that_went_wrong_at_once_tells_nothing_of_the_next_and_one_that_hung_does() -> None:
    early, hung = (Taken(Step("a", "sweep", 50), seconds, went_wrong=True) for seconds in (2, 95))
    assert plan.expected(SWEEP, [early], with_model=False) == 60
    assert plan.expected(SWEEP, [early, hung], with_model=False) == 60 * 95 / 50


def test_a_step_is_given_its_planned_seconds_however_quick_those_like_it_were() -> None:
    quick = Taken(Step("a", "sweep", 50), 5)
    assert plan.expected(SWEEP, [quick], with_model=False) == 6
    assert plan.allowed(SWEEP, 500, [quick]) == plan.allowed(SWEEP, 500, [])


def test_a_step_that_would_not_end_in_time_is_not_begun_and_says_why() -> None:
    assert plan.why_not_begun(SWEEP, 60 + plan.RESERVE, [], with_model=False) is None
    why = plan.why_not_begun(SWEEP, 59 + plan.RESERVE, [], with_model=False)
    assert why == "takes some 60 s, and 71 s of the budget are left"


def test_a_step_that_hangs_is_given_up_while_there_is_time_for_others() -> None:
    assert plan.allowed(SWEEP, 500, []) == 1.5 * 60 + 20
    assert plan.allowed(SWEEP, 50, []) == 50 - plan.RESERVE
    assert plan.allowed_for_model("7B", 500) == 140
    assert plan.allowed_for_model("7B", 50) == 50 - plan.RESERVE


def test_steps_for_several_gpus_are_left_out_on_one_and_steps_can_be_named() -> None:
    assert "scaling" not in [step.name for step in plan.select(None, gpus=1)]
    assert "scaling" in [step.name for step in plan.select(None, gpus=2)]
    assert [step.name for step in plan.select(["watching", "static"], gpus=0)] == ["static", "watching"]
    with pytest.raises(ValueError, match="no step is called 'statik'; there are: tests, article's way"):
        plan.select(["statik"], gpus=0)


def test_without_a_gpu_the_same_steps_are_done_with_tiny_models() -> None:
    tiny = plan.with_tiny_models(SWEEP)
    assert (tiny.size, tiny.batch_sizes, tiny.seconds) == ("tiny", SWEEP.batch_sizes, plan.TINY * SWEEP.seconds)
    assert plan.with_tiny_models(STEPS[0]).size == ""


def test_the_last_setting_has_as_many_rounds_as_ten_seconds_need_within_bounds() -> None:
    assert measure.rounds_for(10, None) == 4
    assert measure.rounds_for(10, 4.0) == 4
    assert measure.rounds_for(10, 0.1) == measure.ROUNDS_AT_MOST
    assert measure.rounds_for(0, 4.0) == 3
