"""How a run stands: each status as a word, its mark and its style. Pure data."""

from rankdeck.runner.state import RankState, RunState

ENDED_EARLY = "ended early"
"""A sweep that was ended while trials of it were left. To run.json it is completed: there is nothing to resume."""

STATUS = {
    "running": ("●", "strong"),
    "completed": ("✓", "good"),
    ENDED_EARLY: ("■", "warn"),
    "stopped": ("■", "warn"),
    "failed": ("✗", "bad"),
    "lost": ("?", "warn"),
    "unreadable": ("!", "bad"),
}
"""Mark and style of each status; the word stands beside it."""


ASKED_FOR = "asked for"
"""The reason of a pause that a person asked for."""


def shown_phase(state: RunState, rank: RankState) -> str:
    """A rank's phase, or that it gets no batch; one that was made inactive finishes the batch in its hand.

    One that has left is said to have ended: beside counts, "left" would be read as what is left to do.
    """
    if rank.phase == "left":
        return "ended"
    resting = rank.rank >= state.active_ranks and rank.batch is None and rank.phase in ("ready", "waiting")
    return "inactive" if resting and state.ended is None else rank.phase
