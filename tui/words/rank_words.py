"""What a rank is said to be doing, wherever it is said. Pure."""

from runner.state import RankState, RunState


def shown_phase(state: RunState, rank: RankState) -> str:
    """A rank's phase, or that it gets no batch; one that was made inactive finishes the batch in its hand.

    One that has left is said to have ended: beside counts, "left" would be read as what is left to do.
    """
    if rank.phase == "left":
        return "ended"
    resting = rank.rank >= state.active_ranks and rank.batch is None and rank.phase in ("ready", "waiting")
    return "inactive" if resting and state.ended is None else rank.phase
