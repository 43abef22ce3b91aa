"""The status of a run and the phase of a rank: words, marks and styles. Pure."""

from rankdeck.runner.forecast.forecast import eta_seconds
from rankdeck.runner.state import RankState, RunState
from rankdeck.runner.state.silence import waits_for
from rankdeck.tui.words.text import clock

ENDED_EARLY = "ended early"
"""The status of a sweep that ended with trials left. In run.json it is completed: there is nothing to resume."""

STATUS = {
    "running": ("●", "strong"),
    "completed": ("✓", "good"),
    ENDED_EARLY: ("■", "warn"),
    "stopped": ("■", "warn"),
    "failed": ("✗", "bad"),
    "lost": ("?", "warn"),
    "unreadable": ("!", "bad"),
}
"""Mark and style of each status; the word is shown beside them."""


ASKED_FOR = "asked for"
"""The reason of a pause that a person asked for."""


def _stands_still(state: RunState) -> bool:
    """Whether rows of vLLM stand still; in a sweep a batch is closed, and is finished."""
    return state.paused is not None and state.phase not in ("stopping", "ended") and not state.sweeping


def shown_phase(state: RunState, rank: RankState) -> str:
    """A rank's phase, or `inactive` once it gets no batch and has finished the one in its hand.

    A rank that has left is shown as `ended`: beside counts, "left" would read as what is left to do.
    """
    if rank.phase == "left":
        return "ended"
    if rank.silence is not None and state.ended is None:
        return "silent"
    if _stands_still(state) and rank.stepwise and rank.batch is not None:
        return "paused"
    resting = rank.rank >= state.active_ranks and rank.batch is None and rank.phase in ("ready", "waiting")
    return "inactive" if resting and state.ended is None else rank.phase


def eta_words(state: RunState) -> str:
    """The time to the end of the run, or whom it waits for."""
    rank = waits_for(state)
    return clock(eta_seconds(state)) if rank is None else f"waiting for rank {rank}"
