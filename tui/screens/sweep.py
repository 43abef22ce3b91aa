"""The dialog in which a sweep is put together: fields checked as they are typed, and what will happen to the run.

Knows settings and their checks; starting is the business of whoever opened it.
"""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label

from runner.config import MAX_BATCH_SIZE, Problem, check
from runner.state import RunState
from runner.trials import SweepPlan
from tui.keys import hint, steps
from tui.sweep_words import fewest_prompts, plan_words, planned, read_numbers, repeats_warning, with_plan
from tui.text import clock, count, some, visible

FIRST_SIZES = (1, 2, 4, 8, 16, 32)

HAPPENS = (
    "The trials use prompts that are left; their answers are kept, and afterwards the run goes on at the best setting."
)

FIELDS = (
    ("batch_sizes", "Batch sizes", "prompts per batch and rank, as in 1,2,4,8,16"),
    ("ranks", "Ranks", "numbers of active ranks, as in 1,2 or 1-4"),
    ("repeats", "Repeats", "how often each setting is measured"),
)
"""Setting, label, hint."""


def world_size(state: RunState) -> int:
    """How many ranks there are to be swept over."""
    return len(state.ranks) or (state.config.ranks if state.config is not None else 1)


def first_values(state: RunState) -> dict[str, str]:
    """What stands in the fields at first: doubling sizes of which the prompts left allow trials, doubling ranks."""
    world = world_size(state)
    left = max(0, state.prompts - state.done)
    ranks = sorted({1 << power for power in range(world.bit_length()) if 1 << power <= world} | {world})
    sizes = [size for size in FIRST_SIZES if 2 * size * world <= left] or [1]
    return {
        "batch_sizes": ",".join(map(str, sizes)),
        "ranks": ",".join(map(str, ranks)),
        "repeats": str(SweepPlan(batch_sizes=[], ranks=[]).repeats),
    }


def read_plan(values: dict[str, str], state: RunState) -> tuple[SweepPlan | None, list[Problem]]:
    """The plan as typed, None where it is none; and what is wrong with it."""
    problems: list[Problem] = []
    numbers: dict[str, list[int]] = {}
    for name, most in (("batch_sizes", MAX_BATCH_SIZE), ("ranks", world_size(state)), ("repeats", 1000)):
        try:
            numbers[name] = read_numbers(values[name], most=most)
            if name == "repeats" and len(numbers[name]) != 1:
                raise ValueError("needs one whole number")
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    if problems:
        return None, problems
    plan = SweepPlan(
        batch_sizes=numbers["batch_sizes"], ranks=numbers["ranks"], repeats=numbers["repeats"][0], outputs=True
    )
    if state.config is not None:
        # Of the settings of the run itself nothing is wrong: it runs.
        sound = {(problem.setting, problem.message) for problem in check(state.config)}
        found = check(with_plan(state.config, plan))
        problems = [problem for problem in found if (problem.setting, problem.message) not in sound]
    return (None if problems else plan), problems


def promise(plan: SweepPlan, state: RunState) -> str:
    """How many trials it are, how long they take at least, and whether the prompts that are left will do."""
    seconds = planned(plan) * plan.least_seconds
    words = f"{plan_words(plan)}; at least {clock(seconds)}."
    need, left = fewest_prompts(plan), max(0, state.prompts - state.done)
    if need > left:
        words += f" That takes {some(need, 'prompt')} at least; with {count(left)} left it ends early."
    return words


class SweepScreen(ModalScreen[SweepPlan | None]):
    """Asks what to measure; None when it is left with escape."""

    DEFAULT_CSS = """
    SweepScreen #dialog { scrollbar-size-vertical: 1; }
    SweepScreen #sweep-promise { margin-top: 1; }
    SweepScreen.-short #sweep-promise { margin-top: 0; }
    SweepScreen #sweep-promise.-wrong { color: $error; }
    SweepScreen #sweep-happens { color: $quiet; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="sweep.close", tooltip="Measure nothing"),
        *steps("sweep", "tab", "shift+tab", "next", "previous", at_once=True),
        *steps("sweep", "down", "up", "below", "above"),
    ]

    def __init__(self, state: RunState) -> None:
        super().__init__()
        self._state = state

    def compose(self) -> ComposeResult:
        values = first_values(self._state)
        with VerticalScroll(id="dialog", can_focus=False) as box:
            box.border_title = "Sweep"
            box.border_subtitle = hint(self.app, "enter starts it, tab next field, {sweep.close} closes")
            for name, label, words in FIELDS:
                with Horizontal(classes="field"):
                    yield Label(label, classes="name", markup=False)
                    yield Input(values[name], id=f"sweep-{name}", compact=True)
                yield Label(words, id=f"sweep-{name}-said", classes="said", markup=False)
            yield Label("", id="sweep-promise", markup=False)
            yield Label(HAPPENS, id="sweep-happens", markup=False)

    def on_mount(self) -> None:
        self.query_one("#sweep-batch_sizes", Input).focus()
        self._check()

    def action_close(self) -> None:
        self.dismiss(None)

    @on(Input.Changed)
    def _typed(self) -> None:
        self._check()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        plan = self._check()
        if plan is not None:
            self.dismiss(plan)

    def _check(self) -> SweepPlan | None:
        """Say what is wrong beside its field, or what the plan promises and what its repeats are worth."""
        values = {name: self.query_one(f"#sweep-{name}", Input).value for name, *_ in FIELDS}
        plan, problems = read_plan(values, self._state)
        said = {problem.setting: problem.message for problem in reversed(problems)}
        for name, _, usual in FIELDS:
            label = self.query_one(f"#sweep-{name}-said", Label)
            message = said.pop(name, None)
            warning = repeats_warning(plan.repeats) if plan is not None and name == "repeats" else ""
            label.set_class(message is not None, "-wrong")
            label.set_class(bool(warning), "-few")
            label.update(f"✗ {visible(message)}" if message is not None else f"! {warning}" if warning else usual)
        promised = self.query_one("#sweep-promise", Label)
        others = "; ".join(f"{name.replace('_', ' ')}: {message}" for name, message in said.items())
        promised.set_class(bool(others), "-wrong")
        words = "" if plan is None else promise(plan, self._state)
        promised.update(f"✗ {visible(others)}" if others else words)
        return plan
