"""Lines under the header while something holds the run up: a pause, and why; ranks that are silent or relaunched. Pure.

They wrap and are never cut: half a reason is no reason.
"""

from rankdeck.runner.state import RunState
from rankdeck.runner.state.silence import silence_words, silent_ranks
from rankdeck.tui.settings.hint_keys import AS_THEY_COME, Keys, named
from rankdeck.tui.words.status import ASKED_FOR
from rankdeck.tui.words.text import Line, some, visible, wrap


def notice_lines(state: RunState, width: int, keys: Keys = AS_THEY_COME) -> list[Line]:
    """Empty while nothing holds the run up."""
    if state.ended is not None:
        return []
    lines: list[Line] = []
    if loss := _loss_words(state):
        lines.extend(_wrapped("✗ ", loss, "bad", width))
    for silence in silent_ranks(state):
        said = silence_words(silence, outlook=True, more=max(0.0, state.now - silence.at))
        lines.extend(_wrapped("? ", f"rank {silence.rank}: {said}", "warn", width))
    if state.paused is not None:
        lines.extend(_wrapped("‖ ", _paused_words(state, state.paused, keys), "warn", width))
    return lines


def silence_lines(said: str | None, width: int) -> list[Line]:
    """That nothing comes from the run, and why; empty while it talks."""
    return _wrapped("? ", f"{said}; these figures are stale", "warn", width) if said is not None else []


def _paused_words(state: RunState, reason: str, keys: Keys) -> str:
    if reason == ASKED_FOR and state.stepwise and not state.sweeping and state.phase != "stopping":
        return named("paused: rows wait where they are; {run.pause} goes on", keys)
    if reason == ASKED_FOR:
        return named("paused after the batches in flight; {run.pause} goes on", keys)
    end = "" if reason.rstrip().endswith(".") else "."
    return f"paused: {reason.rstrip()}{end} The run goes on by itself once that is mended; no finished answer is lost."


def held_up(state: RunState) -> bool:
    """Whether something holds the run up."""
    return bool(notice_lines(state, 80))


def relaunching(state: RunState) -> bool:
    """Whether ranks are being launched again in a run that had already started."""
    return state.attempt > 1 and state.phase in ("launching", "loading")


def _loss_words(state: RunState) -> str | None:
    """Which rank was lost, why, and what happens next."""
    if relaunching(state):
        loss = state.loss
        start = f"rank {loss.rank} was lost: {loss.cause}; " if loss is not None else ""
        return f"{start}the ranks are launched afresh: {attempt_words(state)}"
    lost = [rank for rank in state.ranks if rank.phase == "lost"]
    if not lost:
        return None
    cause = lost[-1].cause or "no cause is known"
    then = f"the ranks will be launched afresh, {_left(state)}" if state.restarts_left else "no restart is left"
    return f"rank {lost[-1].rank} was lost: {cause}; {then}"


def attempt_words(state: RunState) -> str:
    """`attempt 2, 2 restarts left`"""
    return f"attempt {state.attempt}, {_left(state)}"


def _left(state: RunState) -> str:
    return f"{some(state.restarts_left, 'restart')} left"


def _wrapped(start: str, text: str, style: str, width: int) -> list[Line]:
    parts = wrap(visible(text), max(10, width - len(start)))
    return [((start if number == 0 else " " * len(start), style), (part, style)) for number, part in enumerate(parts)]
