"""How long a sweep will take, from what batches cost in an earlier run. Pure."""

from math import ceil

from runner.forecast.cost_model import CostModel
from runner.protocol.sweep_plan import SweepPlan

WARM_UP_TOKENS, WARM_UP_SHARE = 16, 0.25
"""A warm-up has all rows of its batch, so that memory is taken and clocks are up, but few decode steps."""


def warm_up_tokens(new_tokens: int) -> int:
    """Output tokens of each row of a warm-up before trials whose answers have `new_tokens`."""
    return min(WARM_UP_TOKENS, max(1, int(new_tokens * WARM_UP_SHARE)))


def sweep_seconds(plan: SweepPlan, model: CostModel, new_tokens: int) -> float:
    """Seconds of all trials, warm-ups included and loading not, if every answer has `new_tokens` output tokens."""
    return plan.repeats * sum(
        _trial_seconds(plan, model, ranks, size, new_tokens)
        for ranks in set(plan.ranks)
        for size in set(plan.batch_sizes)
    )


def _trial_seconds(plan: SweepPlan, model: CostModel, ranks: int, size: int, new_tokens: int) -> float:
    batch = model.seconds(size, new_tokens, ranks)
    rounds = max(plan.least_rounds, ceil(plan.least_seconds / batch) if batch > 0 else 0)
    return model.seconds(size, warm_up_tokens(new_tokens), ranks) + rounds * batch
