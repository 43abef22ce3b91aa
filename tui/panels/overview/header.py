"""The top line: which run this is and what phase it is in. Pure functions of the state."""

from rankdeck.runner.protocol import RankReady
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.overview.notice import attempt_words
from rankdeck.tui.words.status import STATUS
from rankdeck.tui.words.sweep import current_trial_number, how_ended
from rankdeck.tui.words.text import Line, between, clock, cut_middle, line_width, model_name, some, visible

_MODEL_PHASES = {
    "checking": "checking the model",
    "fetching": "fetching the model",
    "converting": "converting the model",
    "found": "model found",
}


def phase_words(state: RunState) -> str:
    """The phase of the run, in words."""
    if state.ended is not None:
        return how_ended(state)
    if state.phase == "model" and state.model is not None:
        return _MODEL_PHASES[state.model.phase]
    if state.paused is not None and state.phase == "running":
        return "‖ paused"
    if state.phase == "launching":
        return "launching ranks"
    if state.phase == "running" and state.sweep is not None and state.sweeping:
        return f"trial {current_trial_number(state.sweep)}/{len(state.sweep.trials)}"
    return state.phase


def phase_style(state: RunState) -> str:
    if state.ended is not None:
        return STATUS[how_ended(state)][1]
    held_up = state.phase == "stopping" or (state.paused is not None and state.phase == "running")
    return "warn-strong" if held_up else "strong"


def ranks_words(state: RunState) -> str:
    """How many ranks there are, and how many are active if not all."""
    assert state.config is not None
    world_size = state.config.ranks
    if state.ended is None and 0 < state.active_ranks < world_size:
        return active_words(state)
    return some(world_size, "rank")


def active_words(state: RunState) -> str:
    """`1 of 2 ranks active`"""
    world_size = state.config.ranks if state.config is not None else len(state.ranks)
    return f"{state.active_ranks} of {world_size} ranks active"


def phase_clock(state: RunState) -> float:
    """Seconds to show beside the phase: since the first batch, or since the start before there is one."""
    return state.elapsed if state.first_batch_at is None else state.seconds


def engine_words(ready: RankReady | None) -> tuple[str, ...]:
    """The engine, and how far it was ahead in earlier runs if it was taken for that."""
    if ready is None or not ready.engine:
        return ()
    lead = f" ({ready.engine_lead:.2f}x {visible(ready.engine_over)})" if ready.engine_lead is not None else ""
    return (f"{visible(ready.engine)} engine{lead}",)


def header_line(state: RunState, width: int) -> Line:
    """Model, ranks, dispatch and length mode on the left; phase and clock on the right; always one line."""
    right: Line = ((phase_words(state), phase_style(state)), (f" {clock(phase_clock(state))}", "strong"))
    name: Line = (("rankdeck", "key"),)
    if state.config is None:
        return between(name, right, width)
    config = state.config
    ready = next((rank.ready for rank in state.ranks if rank.ready is not None), None)
    dtype = visible(ready.dtype) if ready is not None else ""
    if not dtype and config.dtype != "auto":
        dtype = config.dtype
    ranks = ranks_words(state)
    again: tuple[str, ...] = ()
    again_short: tuple[str, ...] = ()
    if state.attempt > 1 and state.ended is None:
        again = (attempt_words(state),)
        again_short = (f"attempt {state.attempt}, {state.restarts_left} left",)
    engines = engine_words(ready)
    unusual = ready is not None and (ready.engine != "static" or ready.engine_lead is not None)
    name_shown = model_name(state.model_label)
    # In a short line, gaps shrink first, then a long name loses half, then the least surprising facts go.
    ways: tuple[tuple[int, tuple[str, ...], int], ...] = (
        (3, (ranks, *again, config.dispatch, *engines, config.length_mode), len(name_shown)),
        (2, (ranks, *again, config.dispatch, *engines, config.length_mode), len(name_shown)),
        # An engine that is not the usual one tells more than how prompts are handed out, and when answers end.
        *(((2, (ranks, *again, *engines, *rest), 10) for rest in ((config.length_mode,), ())) if unusual else ()),
        (3, (ranks, *again, config.dispatch, config.length_mode), len(name_shown)),
        (2, (ranks, *again, config.dispatch, config.length_mode), 14),
        (2, (ranks, *again_short, config.length_mode), 10),
        (2, (ranks, *again_short), 6),
        (2, (ranks,), 0),
    )
    for gap, facts, least in ways:
        rest = "".join(" " * gap + fact for fact in facts)
        used = len("rankdeck") + gap + len(dtype) + bool(dtype) + len(rest) + 2 + line_width(right)
        room = width - used
        if room >= min(len(name_shown), least):
            break
    model = cut_middle(name_shown, max(1, room))
    middle: Line = ((" " * gap, ""), (model, "strong"), (f" {dtype}" if dtype else "", ""), (rest, "dim"))
    return between((*name, *middle), right, width)
