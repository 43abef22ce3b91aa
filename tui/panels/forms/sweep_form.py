"""The form of a sweep as data: what is swept, the fields, the plan they add up to, and what that plan will take.

For a sweep within a run, whose prompts it shares, and for a new one, launched as `rankdeck sweep` does. Pure; knows no
widget.
"""

from typing import Any, NamedTuple

import msgspec

from rankdeck.runner.forecast.cost_model import CostModel
from rankdeck.runner.forecast.forecast import sweep_seconds
from rankdeck.runner.protocol.config import MAX_BATCH_SIZE, MAX_RANKS, Problem, RunConfig, check
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.forms.run_form import Field
from rankdeck.tui.sources.runs import Setting
from rankdeck.tui.words.numbers import read_numbers
from rankdeck.tui.words.sweep import fewest_prompts, plan_words, planned, with_plan
from rankdeck.tui.words.text import clock, count, some

FIRST_SIZES = (1, 2, 4, 8, 16, 32)
FIRST_LOOK_LARGEST, FIRST_LOOK_APART, FIRST_LOOK_SIZES = 128, 4, 4
"""The batch sizes proposed for a new sweep, to show in a minute or two where to look more closely: at most
FIRST_LOOK_SIZES of them, each FIRST_LOOK_APART times the one before, up to FIRST_LOOK_LARGEST or the largest that the
prompts fill in one round."""

FIRST_LOOK_ROUNDS, FIRST_LOOK_SECONDS = 1, 2.0
"""Of each trial of a new sweep that measures each setting once: the noise stays unknown, so one round is enough."""

FIRST_LOOK_TOKENS = 32
"""Tokens of each answer: enough to show which setting is fast. A round of long answers takes half a minute on a CPU."""

THROWN_AWAY, KEPT = "thrown away", "kept"

FIELDS = (
    Field("batch_sizes", "Batch sizes", "", "prompts per batch and rank, as in 1,2,4,8,16"),
    Field("ranks", "Ranks", "", "numbers of active ranks, as in 1,2 or 1-4"),
    Field("repeats", "Repeats", "", "how often each setting is measured"),
)
NEW_FIELDS = (
    *FIELDS[:2],
    Field("repeats", "Repeats", "", "how often each setting is measured; 3 or more show the noise"),
    Field("trial_tokens", "New tokens", "", "of each answer that is thrown away; fewer are measured sooner"),
    Field("answers", "Answers", THROWN_AWAY, "kept ones end as the model ends them", (THROWN_AWAY, KEPT)),
)

IN_A_RUN = (
    "The trials use prompts that are left; their answers are kept, and then the run goes on at the chosen setting."
)
NEW_THROWN_AWAY = "The model is loaded once. The trials go through the prompts again and again, at fixed length."
NEW_AND_KEPT = "Each prompt is used once, its answer whole; those that are left are done at the chosen setting."


class SweepWork(NamedTuple):
    """What is swept: the settings of a run (None while unknown), its ranks and its prompts.

    `ranks` is the world size, `most_ranks` how many may be measured, `prompts` how many there are for the trials (None:
    not counted). A `new` sweep is launched with these settings; any other happens within a run. `costs` is what batches
    took in earlier runs like it (None: no such run).
    """

    config: RunConfig | None
    ranks: int
    most_ranks: int
    prompts: int | None
    new: bool = False
    costs: CostModel | None = None

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of the form; a new sweep also asks whether to keep the answers."""
        return NEW_FIELDS if self.new else FIELDS


def in_run(state: RunState) -> SweepWork:
    """A sweep within a run."""
    world = len(state.ranks) or (state.config.ranks if state.config is not None else 1)
    return SweepWork(state.config, world, world, max(0, state.prompts - state.done))


def new_sweep(config: RunConfig, prompts: int | None, costs: CostModel | None = None) -> SweepWork:
    """A sweep launched instead of a run with these settings."""
    return SweepWork(config, config.ranks, MAX_RANKS, prompts, new=True, costs=costs)


def as_sweep(config: RunConfig, plan: SweepPlan) -> RunConfig:
    """The settings of a new run that is this sweep, as `rankdeck sweep` makes them: ranks pull their batches, and
    answers that are thrown away have a fixed length.
    """
    return msgspec.structs.replace(
        with_plan(config, plan),
        ranks=max(plan.ranks),
        batch_size=None,
        dispatch="pull",
        ignore_eos=config.ignore_eos or not plan.outputs,
    )


def without_sweep(config: RunConfig, chosen: Setting | None) -> RunConfig:
    """The settings of a run after a sweep: those that the sweep chose, with answers that end as the model ends them."""
    if (plan := config.sweep) is None:
        return config
    changed: dict[str, Any] = {"sweep": None, "ignore_eos": config.ignore_eos and plan.outputs}
    if chosen is not None:
        changed |= {"ranks": chosen.active_ranks, "batch_size": chosen.batch_size}
    return msgspec.structs.replace(config, **changed)


def first_values(work: SweepWork) -> dict[str, str]:
    """The first values of the fields: sizes that the prompts allow, ranks that double; a new sweep has one repeat."""
    world = work.ranks
    ranks = sorted({1 << power for power in range(world.bit_length()) if 1 << power <= world} | {world})
    if work.new:
        largest = FIRST_LOOK_LARGEST if work.prompts is None else min(FIRST_LOOK_LARGEST, work.prompts // world)
        sizes = sorted({max(1, largest // FIRST_LOOK_APART**step) for step in range(FIRST_LOOK_SIZES)})
        sizes = sizes[1:] if len(sizes) == FIRST_LOOK_SIZES and sizes[0] == 1 else sizes
    else:
        sizes = [size for size in FIRST_SIZES if work.prompts is None or 2 * size * world <= work.prompts] or [1]
    return {
        "batch_sizes": ",".join(map(str, sizes)),
        "ranks": ",".join(map(str, ranks)),
        "repeats": "1" if work.new else str(SweepPlan(batch_sizes=[], ranks=[]).repeats),
        "trial_tokens": str(min(FIRST_LOOK_TOKENS, work.config.max_new_tokens) if work.config is not None else ""),
        "answers": THROWN_AWAY,
    }


def read_plan(values: dict[str, str], work: SweepWork) -> tuple[SweepPlan | None, list[Problem]]:
    """The plan as typed, None if something is wrong with it, and what is wrong."""
    problems: list[Problem] = []
    numbers: dict[str, list[int]] = {}
    most_numbers = {"batch_sizes": MAX_BATCH_SIZE, "ranks": work.most_ranks, "repeats": 1000}
    outputs = not work.new or values["answers"] == KEPT
    whole = work.config.max_new_tokens if work.config is not None else None
    if not outputs and whole is not None:
        most_numbers["trial_tokens"] = whole
    for name, most in most_numbers.items():
        try:
            numbers[name] = read_numbers(values[name], most=most)
            if name in ("repeats", "trial_tokens") and len(numbers[name]) != 1:
                raise ValueError("needs one whole number")
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    if problems:
        return None, problems
    repeats, tokens = numbers["repeats"][0], numbers.get("trial_tokens", [whole])[0]
    plan = SweepPlan(
        batch_sizes=numbers["batch_sizes"],
        ranks=numbers["ranks"],
        repeats=repeats,
        outputs=outputs,
        trial_tokens=None if tokens == whole else tokens,
    )
    if work.new and repeats == 1:
        plan = msgspec.structs.replace(plan, least_rounds=FIRST_LOOK_ROUNDS, least_seconds=FIRST_LOOK_SECONDS)
    problems = _check(plan, work)
    return (None if problems else plan), problems


def _check(plan: SweepPlan, work: SweepWork) -> list[Problem]:
    if work.config is None:
        return []
    if not work.new:
        # Problems with the settings of the run itself are ignored: it is running.
        sound = {(problem.setting, problem.message) for problem in check(work.config)}
        found = check(with_plan(work.config, plan))
        return [problem for problem in found if (problem.setting, problem.message) not in sound]
    problems = check(as_sweep(work.config, plan))
    if plan.outputs and work.prompts is not None and (need := fewest_prompts(plan)) > work.prompts:
        said = f"that needs {some(need, 'prompt')} at least, and there are {count(work.prompts)}"
        problems.append(Problem("answers", said))
    if not plan.outputs and work.config.output is not None:
        problems.append(Problem("output", "there is nothing to copy where the answers are not kept"))
    return problems


def promise(plan: SweepPlan, work: SweepWork) -> str:
    """How many trials there are, how long they take, and whether there are enough prompts.

    The time is estimated from earlier runs that measured all settings; otherwise it is a lower bound.
    """
    takes = f"at least {clock(planned(plan) * plan.least_seconds)}"
    if work.config is not None and not plan.outputs and (costs := work.costs) is not None:
        guessed = (costs.why_extrapolated(size, ranks) for size in plan.batch_sizes for ranks in plan.ranks)
        if not any(guessed):
            seconds = sweep_seconds(plan, costs, plan.trial_tokens or work.config.max_new_tokens)
            takes = f"about {clock(seconds)} once the model is loaded, by what batches took before"
    words = f"{plan_words(plan)}; {takes}."
    if work.prompts is None:
        return words
    need, largest = fewest_prompts(plan), max(plan.batch_sizes) * max(plan.ranks)
    if not work.new and need > work.prompts:
        words += f" That takes {some(need, 'prompt')} at least; with {count(work.prompts)} left it ends early."
    elif work.new and largest > work.prompts:
        words += f" The largest round takes {some(largest, 'prompt')}: of {count(work.prompts)} some come twice."
    return words


def happens(values: dict[str, str], work: SweepWork) -> str:
    """What happens to prompts and answers."""
    if not work.new:
        return IN_A_RUN
    return NEW_AND_KEPT if values["answers"] == KEPT else NEW_THROWN_AWAY
