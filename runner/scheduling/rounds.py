"""Even rounds: into how many batches the rest of a job is cut. Pure.

Used by the scheduler to cut batches and by the state and forecast to follow it, so that predictions match what happens.
"""

from typing import NamedTuple


def batches_needed(left: int, active_ranks: int, batch_size: int) -> int:
    """Batches for `left` prompts: as few rounds as the batch size allows, with a batch for every rank in each.

    Spreading the prompts evenly over this many batches takes no more rounds than full batches would,
    and leaves no rank with a small remainder.
    """
    return active_ranks * -(-left // (active_ranks * batch_size))


class EvenRounds(NamedTuple):
    """How many batches are still to be cut, as planned for one setting of the knobs."""

    batch_size: int = 0
    active_ranks: int = 0
    batches: int = 0

    def planned(self, left: int, batch_size: int, active_ranks: int) -> int:
        """Batches for `left` prompts: the plan's, or a new plan's if a knob was turned or the plan is used up."""
        if (batch_size, active_ranks) != (self.batch_size, self.active_ranks) or self.batches < 1:
            return batches_needed(left, active_ranks, batch_size)
        return self.batches

    def cut(self, left: int, batch_size: int, active_ranks: int) -> "EvenRounds":
        """The plan after another batch was cut from `left` prompts."""
        return EvenRounds(batch_size, active_ranks, self.planned(left, batch_size, active_ranks) - 1)
