"""The advice line above the footer, and all advice for the dialog. Pure; the advice itself comes from runner.advice."""

from rankdeck.runner.advice.advice import Advice, advise
from rankdeck.runner.state import RunState
from rankdeck.tui.settings.hint_keys import AS_THEY_COME, Keys, key_of
from rankdeck.tui.words.status import ASKED_FOR
from rankdeck.tui.words.text import Line, between, visible, wrap


def advice_lines(state: RunState, width: int, keys: Keys = AS_THEY_COME) -> list[Line]:
    """The most useful advice in one line; empty if there is none or nothing is running."""
    said = advice_texts(state)
    if not said:
        return []
    more = f"{len(said) - 1} more" if len(said) > 1 else "all of it" if len(said[0]) + 2 > width else ""
    more = f"{key_of('run.advice', keys)} {more}" if more else ""
    line: Line = (("▸ ", "key"), (said[0], ""))
    return [between(line, ((more, "dim"),), width) if more else line]


def all_advice(state: RunState, width: int) -> list[Line]:
    """All advice in full, then why the batch size is what it is, and why there are no GPU figures."""
    lines: list[Line] = []
    for text in advice_texts(state) or ["Nothing to advise: no figure so far speaks for turning a knob."]:
        lines.extend(_entry("▸ ", text, width))
    if reason := batch_size_reason(state):
        lines.append(())
        lines.extend(_entry("  ", f"batch size {state.batch_size}: {reason}", width))
    if state.telemetry_reason is not None:
        lines.append(())
        lines.extend(_entry("  ", f"no GPU figures: {visible(state.telemetry_reason)}", width))
    return lines


def batch_size_reason(state: RunState) -> str:
    """Why the search settled on this batch size; empty if a person asked for it."""
    for period in reversed(state.periods):
        if period.batch_size != state.batch_size or period.reason == AS_ASKED:
            break
        if period.trial:
            break
        if period.reason:
            return visible(period.reason)
    return ""


AS_ASKED = f"as {ASKED_FOR}"
"""The reason given for a batch size that a person asked for."""


def current_advice(state: RunState) -> list[Advice]:
    """The most useful first; none while ranks are loading."""
    return advise(state) if state.phase in ("running", "stopping", "ended") else []


def advice_texts(state: RunState) -> list[str]:
    return [visible(advice.text) for advice in current_advice(state)]


def _entry(start: str, text: str, width: int) -> list[Line]:
    parts = wrap(text, max(10, width - len(start)))
    return [((start if number == 0 else " " * len(start), "key"), (part, "")) for number, part in enumerate(parts)]
