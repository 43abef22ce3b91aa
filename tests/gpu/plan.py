"""What `make gpu` does, in which order, and whether there is time for it. Pure: seconds are arguments.

The most telling steps come first, as time may run out at any of them. Knows nothing of how a step is done.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["tests", "article", "sweep", "steer", "watch"]
"""`article` is the 2023 article's script; in `steer` knobs are turned, in `watch` the dashboard comes and goes."""


@dataclass(frozen=True)
class Step:
    """One launch, and what it measures. `seconds` are those planned on an H100, without making the model."""

    name: str
    kind: Kind
    seconds: float
    size: str = ""
    engine: str = "static"
    decoding: str = "auto"
    batch_sizes: tuple[int, ...] = ()
    ranks: tuple[int, ...] = (1,)
    recording: str | None = None
    least_gpus: int = 0


STEPS = (
    # The eight named cases, in five launches: the batch sizes of a sweep share one, and so do watching on and off. On
    # several GPUs how it scales is among them: eight ranks load 13 GB each, then four trials of 12 s and more.
    Step("tests", "tests", 110),
    Step("article's way", "article", 35, "7B", "article", batch_sizes=(16,)),
    Step("static", "sweep", 75, "7B", batch_sizes=(1, 16, 64, 256), recording="sweep"),
    Step("continuous", "sweep", 40, "7B", "continuous", batch_sizes=(64,)),
    Step("two ranks", "steer", 70, "7B", batch_sizes=(16, 64), ranks=(1, 2), recording="run"),
    Step("scaling", "sweep", 110, "7B", batch_sizes=(64,), ranks=(1, 2, 4, 8), least_gpus=2),
    Step("watching", "watch", 72, "7B", batch_sizes=(64,)),
    # If time is left: on one GPU, usually only for the first of these. It is what the decode loop is held against.
    Step("by generate", "sweep", 55, "7B", decoding="generate", batch_sizes=(16, 64)),
    Step("1B static", "sweep", 50, "1B", batch_sizes=(16, 64, 256)),
    Step("1B continuous", "sweep", 30, "1B", "continuous", batch_sizes=(64,)),
    Step("1B article's way", "article", 30, "1B", "article", batch_sizes=(16,)),
    Step("continuous grid", "sweep", 60, "7B", "continuous", batch_sizes=(16, 256)),
    Step("two ranks grid", "sweep", 65, "7B", batch_sizes=(16, 256), ranks=(2,)),
    Step("1B two ranks", "sweep", 40, "1B", batch_sizes=(64, 256), ranks=(2,)),
)
"""The order, and the planned seconds of each step."""

BUDGET, BUDGET_ON_SEVERAL, BUDGET_WITHOUT_GPU = 530.0, 780.0, 165.0
"""Seconds for all of it. Nine minutes on one GPU hold those before the first step, too; several have more to show."""

MODEL_SECONDS = {"7B": 35.0, "1B": 15.0, "tiny": 15.0}
"""What making a model of this size takes."""

TINY = 0.35
"""Share of the planned seconds, with tiny models on two cores: most of it goes into starting processes."""

RESERVE = 12.0
"""Seconds kept for ending what is still running, and for the summary."""

LATE_FACTOR, LATE_SECONDS = 1.5, 20.0
"""A step that takes this much longer than expected is taken to hang: it times out, and the next one starts."""

MODEL_LATE_FACTOR = 4.0
"""Weights may go to a slow disk."""


@dataclass(frozen=True)
class Taken:
    """A step that is over, and the seconds that it took."""

    step: Step
    seconds: float
    went_wrong: bool = False

    @property
    def over_plan(self) -> float | None:
        """How many times its plan it took; None if it ended early by going wrong, which says nothing of the machine."""
        ratio = self.seconds / self.step.seconds
        return None if self.went_wrong and ratio < 1 else ratio


def budget(gpus: int) -> float:
    """The seconds for all steps, unless others are asked for."""
    if not gpus:
        return BUDGET_WITHOUT_GPU
    return BUDGET if gpus == 1 else BUDGET_ON_SEVERAL


def expected(step: Step, taken: Sequence[Taken], *, with_model: bool) -> float:
    """Seconds that `step` will take: as planned, times the worst that a step of its kind took over its plan."""
    alike = [ratio for one in taken if one.step.kind == step.kind and (ratio := one.over_plan) is not None]
    return step.seconds * max(alike, default=1.0) + (MODEL_SECONDS[step.size] if with_model else 0.0)


def why_not_begun(step: Step, left: float, taken: Sequence[Taken], *, with_model: bool) -> str | None:
    """Why a step is skipped, `left` seconds before the end; None if it would end in time."""
    needed = expected(step, taken, with_model=with_model)
    if needed <= left - RESERVE:
        return None
    return f"takes some {needed:.0f} s, and {max(0.0, left):.0f} s of the budget are left"


def allowed(step: Step, left: float, taken: Sequence[Taken]) -> float:
    """Seconds after which a step is given up, its model being there, `left` seconds before the end.

    However quick those like it were, a step has the seconds of its plan.
    """
    late = LATE_FACTOR * max(step.seconds, expected(step, taken, with_model=False)) + LATE_SECONDS
    return max(0.0, min(left - RESERVE, late))


def allowed_for_model(size: str, left: float) -> float:
    """Seconds after which making a model is given up."""
    return max(0.0, min(left - RESERVE, MODEL_LATE_FACTOR * MODEL_SECONDS[size]))


def with_tiny_models(step: Step) -> Step:
    """The same step on a machine without a GPU."""
    return replace(step, size=step.size and "tiny", seconds=TINY * step.seconds)


def select(names: Sequence[str] | None, gpus: int) -> list[Step]:
    """The steps of these names, or all of them, that `gpus` GPUs can do, in their order.

    Raises:
        ValueError: there is no step of this name.
    """
    known = [step.name for step in STEPS]
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"no step is called {unknown[0]!r}; there are: {', '.join(known)}")
    asked = [step for step in STEPS if names is None or step.name in names]
    return [step for step in asked if gpus >= step.least_gpus]
