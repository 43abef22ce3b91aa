"""The advice line above the footer, the line of what the run is bound by, and all of it for the dialog. Pure.

The advice and the verdict themselves come from runner.advice.
"""

from rankdeck.runner.advice.advice import Advice, advise
from rankdeck.runner.advice.bound import bound, bound_at_the_end
from rankdeck.runner.advice.invitation import invites
from rankdeck.runner.state import RunState
from rankdeck.runner.state.load import recent
from rankdeck.runner.state.settings import current_setting
from rankdeck.tui.panels.overview.knob_effect import turn_lines
from rankdeck.tui.panels.overview.settings_table import BEST, best_of, joules_words
from rankdeck.tui.settings.hint_keys import AS_THEY_COME, Keys, key_of
from rankdeck.tui.words.status import ASKED_FOR
from rankdeck.tui.words.text import Line, between, count, fit, line_width, some, visible, wrap


def advice_lines(state: RunState, width: int, keys: Keys = AS_THEY_COME, *, steers: bool = False) -> list[Line]:
    """The most useful advice in one line; empty if there is none or nothing is running.

    A user who `steers` a run at a small batch size is invited to turn a knob, ahead of all advice.
    """
    said = advice_texts(state)
    if steers and invites(state):
        return [_invitation(state, len(said), width, keys)]
    if not said:
        return []
    more = f"{len(said) - 1} more" if len(said) > 1 else "all of it" if len(said[0]) + 2 > width else ""
    more = f"{key_of('run.advice', keys)} {more}" if more else ""
    line: Line = (("▸ ", "key"), (said[0], ""))
    return [between(line, ((more, "dim"),), width) if more else line]


def _invitation(state: RunState, others: int, width: int, keys: Keys) -> Line:
    more: Line = ((f"{key_of('run.advice', keys)} {others} more", "dim"),) if others else ()
    texts = _inviting_words(state, keys)
    room = width - 2 - (line_width(more) + 2 if more else 0)
    text = next((text for text in texts if len(text) <= room), texts[-1])
    line: Line = (("▸ ", "key"), (text, ""))
    return between(line, more, width) if more else line


def _inviting_words(state: RunState, keys: Keys) -> tuple[str, ...]:
    """The invitation, the longest form first."""
    plus, tour = key_of("knob.larger_batches", keys), key_of("run.tour", keys)
    doubles = f"{plus} doubles the batch size"
    size = some(state.batch_size, "prompt")
    return (
        f"{doubles}: it is now {size} per batch, with {count(state.pending)} left; {tour} runs the tour",
        f"{doubles}, now {size} per batch; {tour} runs the tour",
        f"{doubles}; {tour} runs the tour",
        doubles,
    )


def all_advice(state: RunState, width: int, keys: Keys = AS_THEY_COME, *, steers: bool = False) -> list[Line]:
    """All advice in full, beginning as the line above the footer does, and what it rests on.

    That is what the run is bound by, what the last turn of a knob brought or will bring, why the batch size is what it
    is, and why there are no GPU figures; an empty line before each.
    """
    said = [*_inviting_words(state, keys)[:1]] if steers and invites(state) else []
    said += advice_texts(state)
    parts = [
        [
            line
            for text in said or ["Nothing to advise: no figure so far speaks for turning a knob."]
            for line in _entry("▸ ", text, width)
        ],
        _whole_verdict(state, width),
        [(("  ", ""), *line) for line in turn_lines(state, max(1, width - 2))],
    ]
    if reason := batch_size_reason(state):
        parts.append(_entry("  ", f"batch size {state.batch_size}: {reason}", width))
    if state.telemetry_reason is not None:
        parts.append(_entry("  ", f"no GPU figures: {visible(state.telemetry_reason)}", width))
    first, *others = (part for part in parts if part)
    return [*first, *(line for part in others for line in ((), *part))]


def _whole_verdict(state: RunState, width: int) -> list[Line]:
    """What the run is bound by, the evidence, and what may help, in as many lines as it takes."""
    best = best_of(state) if state.ended is not None else ""
    lines = _entry(f"{BEST} ", best, width) if best else []
    verdict = bound(state) or bound_at_the_end(state)
    if verdict is not None:
        lines += _entry("  ", f"{verdict.text}{'; ' if verdict.cure else ''}{verdict.cure}", width)
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


def bound_line(state: RunState, width: int) -> Line:
    """What the run is bound by, the evidence, and what may help; MBU and tokens per joule stand on the right.

    After the end it is the best of several settings, and what the run was bound by then if there is room.
    """
    verdict = bound(state)
    if verdict is None:
        return _at_the_end(state, width) if state.ended is not None else ()
    row = current_setting(state)
    now = recent(state.loads, state.now)
    facts: list[Line] = []
    if row is not None and row.mbu is not None and "MBU" not in verdict.evidence and not verdict.before:
        facts.append((("MBU ", "dim"), (f"{row.mbu:.0%}", "strong")))
    if now.watts.value:
        facts.append(((joules_words(state.rate_now / now.watts.value), "strong"), (" tok/J", "dim")))
    head, _, rest = verdict.text.partition(": ")
    start: Line = ((head, "strong"), (f": {rest}" if rest else "", ""))
    right: Line = tuple(piece for fact in facts for piece in (("   ", ""), *fact))
    cure: Line = ((f"   {verdict.cure}", "dim"),) if verdict.cure else ()
    for more, facts_shown in ((cure, right), ((), right), (cure, ()), ((), ())):
        line: Line = (*start, *more)
        if line_width((*line, *facts_shown)) <= width:
            return between(line, facts_shown, width) if facts_shown else fit(line, width)
    return _whole_figures(head, rest, width)


def _at_the_end(state: RunState, width: int) -> Line:
    best, verdict = best_of(state), bound_at_the_end(state)
    line: Line = ((f"{BEST} ", "good"), (best, "")) if best else ()
    if verdict is None:
        return fit(line, width) if line else ()
    head, _, rest = verdict.text.partition(": ")
    if not line:
        return _whole_figures(head, rest, width)
    room = width - line_width(line) - 3
    said = next((words for words in (f"{head}: {rest}", head) if len(words) <= room), "")
    return fit((*line, (f"   {said}", "dim")), width)


def _whole_figures(head: str, rest: str, width: int) -> Line:
    """A verdict with as many of its figures as fit: half a figure would be another one."""
    figures = rest.split(", ")
    while len(figures) > 1 and len(head) + 2 + len(", ".join(figures)) > width:
        figures.pop()
    return fit(((head, "strong"), (f": {', '.join(figures)}" if rest else "", "")), width)
