"""What the last turn of a knob brought, and what another one would bring. Pure.

What it brought is measured on whole warm batches that began and ended under one setting. Until every active rank has
finished one, the line says when the turn takes effect, then what its first steps show (`tui.words.turn`), never in the
style of a measured figure. What another turn would bring is a forecast.
"""

from rankdeck.runner.advice.advice import KnobEffect, early_turn, last_turn
from rankdeck.runner.forecast.forecast import WhatIf, what_if
from rankdeck.runner.state import RunState
from rankdeck.tui.words.text import UNKNOWN, Line, count, fit, flow, gib, line_width, rate, some, wrap
from rankdeck.tui.words.turn import refusal_words, unmeasured_words

DENSE_BELOW = 36
"""In fewer cells than this only the figures are shown: a chart this low has no second line to spare."""

_EARLY = "turned before a batch was whole: nothing to compare with"
_COLD = "turned after first batches only, which are slower: nothing to compare with"


def turn_lines(state: RunState, width: int) -> list[Line]:
    """The last turn of a knob, with tokens/s and memory before and after; empty if no knob was turned.

    One that was refused a moment ago is said first. Two lines at most.
    """
    if refused := refusal_words(state):
        return _refused(refused, width)
    effect = last_turn(state)
    turn = effect or early_turn(state)
    if turn is None or not _knobs(turn, ("", ""), ""):
        return []
    if turn.after.warm_rate is None:
        if state.ended is not None:
            return []  # it will never be measured
        was = effect.before.warm_rate if effect is not None else None
        if words := unmeasured_words(state, was):
            return [_with_knobs(turn, words, width)]
    if effect is None:
        return [_early(turn, width)]
    ways = [flow(_facts(effect, short=short), width, gap=2) for short in (False, True)]
    if width < DENSE_BELOW:
        ways.append([_dense(effect)])
    return [fit(line, width) for line in min(ways, key=len)]


def _early(turn: KnobEffect, width: int) -> Line:
    """A knob turned before anything was measured: why there is no before and after."""
    why = _COLD if turn.before.cold else _EARLY
    return _with_knobs(turn, [why, why.partition(": ")[2]], width)


def _with_knobs(turn: KnobEffect, forms: list[str], width: int) -> Line:
    """The knobs turned and what is said of them: as many words as fit."""
    full, short = (
        " and ".join(_knobs(turn, names, arrow))
        for names, arrow in ((("batch size", "active ranks"), " → "), (("batch", "ranks"), "→"))
    )
    # Whoever turned a knob knows which one, so its name is shortened first.
    ways: list[Line] = [
        ((knobs, "strong"), (f"{gap}{said}", "dim"))
        for said in forms
        for knobs, gap in ((full, "  "), (short, "  "), (short, " "))
    ]
    return next((line for line in ways if line_width(line) <= width), fit(ways[-1], width))


def _refused(forms: list[str], width: int) -> list[Line]:
    whole = next((said for said in forms if line_width(((said, ""),)) <= width), None)
    parts = [whole] if whole is not None else wrap(forms[min(1, len(forms) - 1)], width)
    return [fit(((part, "warn"),), width) for part in parts[:2]]


def _dense(effect: KnobEffect) -> Line:
    before, after = effect.before, effect.after
    knob = ", ".join(_knobs(effect, ("batch", "ranks"), "→"))
    was, now = before.warm_rate or 0.0, after.warm_rate
    figures = f"{rate(was)}→{'measuring…' if now is None else rate(now)}"
    gain = f" {now / was - 1:+.0%}" if now is not None and was > 0 else ""
    return ((f"{knob} ", "strong"), (figures, ""), (gain, "good" if (now or 0) >= was else "warn"))


def _knobs(effect: KnobEffect, names: tuple[str, str], arrow: str) -> list[str]:
    """Each knob that was turned, from what to what."""
    before, after = effect.before, effect.after
    pairs = ((before.batch_size, after.batch_size), (before.active_ranks, after.active_ranks))
    return [f"{name} {was}{arrow}{now}" for name, (was, now) in zip(names, pairs, strict=True) if was != now]


def _facts(effect: KnobEffect, *, short: bool) -> list[Line]:
    before, after = effect.before, effect.after
    knobs = _knobs(effect, ("batch", "ranks") if short else ("batch size", "active ranks"), " → ")
    # Two knobs turned before either was measured share one figure.
    facts: list[Line] = [((" and ".join(knobs), "strong"),)]
    was, now = before.warm_rate or 0.0, after.warm_rate
    if now is None:
        return [*facts, ((f"{rate(was)} tok/s → ", ""), ("measuring…", "dim"))]
    gain: Line = ((f" ({now / was - 1:+.0%})", "good" if now >= was else "warn"),) if was > 0 else ()
    facts.append(((f"{rate(was)} → ", ""), (rate(now), "strong"), (" tok/s", ""), *gain))
    peaks = before.peak_memory_bytes, after.peak_memory_bytes
    if any(peak is not None for peak in peaks):
        facts.append((("memory ", "dim"), (f"{_before_and_after(peaks)} GiB", "")))
    reserves = before.reserved_memory_bytes, after.reserved_memory_bytes
    if not short and any(reserve is not None for reserve in reserves):
        facts.append((("reserved ", "dim"), (f"{_before_and_after(reserves)} GiB", "")))
    return facts


def _before_and_after(sizes: tuple[int | None, int | None]) -> str:
    return " → ".join(UNKNOWN if size is None else gib(size) for size in sizes)


def what_ifs(state: RunState) -> list[WhatIf]:
    """The turns of a knob that are possible and still worth it: none with less than a round of the setting left."""
    if state.phase != "running" or state.paused is not None:
        return []
    caps = [rank.cap for rank in state.ranks if rank.cap is not None]
    return [
        turn
        for turn in what_if(state)
        if state.pending >= turn.batch_size * turn.active_ranks
        and not (turn.batch_size > state.batch_size and caps and turn.batch_size > min(caps))
    ]


def what_if_words(state: RunState, change: WhatIf) -> tuple[str, str]:
    """The setting and the gain in tokens/s: `batch size 16`, `about +88%`; "about" marks an extrapolation."""
    knob = f"batch size {count(change.batch_size)}"
    if change.active_ranks != state.active_ranks:
        knob = some(change.active_ranks, "rank")
    return knob, f"{'about ' if change.extrapolated else ''}{change.steady_percent:+.0f}%"
