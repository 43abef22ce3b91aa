"""Even rounds: how many batches what is left of a job makes. Pure.

The scheduler cuts batches by it, and the state follows, so that what is predicted is what will be handed out.
"""

from typing import NamedTuple


def batches_needed(left: int, active_ranks: int, batch_size: int) -> int:
    """Batches for `left` prompts: as few rounds as the batch size allows, and a batch for every rank in each.

    Spreading the prompts evenly over this many batches costs no round more than full batches would,
    and leaves no rank with a scrap.
    """
    return active_ranks * -(-left // (active_ranks * batch_size))


class EvenRounds(NamedTuple):
    """The batches that are still to be cut, as planned for one setting of the knobs."""

    batch_size: int = 0
    active_ranks: int = 0
    batches: int = 0

    def planned(self, left: int, batch_size: int, active_ranks: int) -> int:
        """Batches for `left` prompts: the plan's; made afresh where a knob was turned or it is used up."""
        if (batch_size, active_ranks) != (self.batch_size, self.active_ranks) or self.batches < 1:
            return batches_needed(left, active_ranks, batch_size)
        return self.batches

    def cut(self, left: int, batch_size: int, active_ranks: int) -> "EvenRounds":
        """The plan once another batch was cut of `left` prompts."""
        return EvenRounds(batch_size, active_ranks, self.planned(left, batch_size, active_ranks) - 1)
