"""Whether a run invites its user to turn a knob: it began with small batches, and nobody has turned one yet. Pure.

An invitation promises no gain: nothing but the current setting has been measured.
"""

from rankdeck.runner.state import RunState

SMALL_BATCH = 4
LEAST_ROUNDS = 4
"""With fewer rounds left, a turn of a knob has little left to act on."""


def invites(state: RunState) -> bool:
    """Whether doubling the batch size is worth trying by hand."""
    if state.phase != "running" or state.paused is not None or state.sweep is not None or not state.periods:
        return False
    first = state.periods[-1]
    untouched = first.number == 0 and not first.auto and state.active_ranks == len(state.ranks)
    roomy = all(rank.cap is None for rank in state.ranks)
    rounds = state.pending / max(1, state.active_ranks * state.batch_size)
    return untouched and roomy and state.batch_size <= SMALL_BATCH and rounds >= LEAST_ROUNDS
