"""A turn of a knob in words, before it is measured: refused, still to take effect, or seen in its first steps. Pure.

Each has several forms, the longest first; whoever shows one takes the first that fits. A figure that is not measured
has a "~" before it, in every form.
"""

from math import ceil

from rankdeck.runner.forecast.turn_effect import Coming, Provisional, provisional, takes_effect
from rankdeck.runner.state import RunState
from rankdeck.tui.words.text import clock, rate, some, visible

REFUSAL_SECONDS = 10.0
"""A refusal is shown for this long: it answers a key that was just pressed."""

_CLOCK_FROM = 100


def refusal_words(state: RunState) -> list[str]:
    """Why the newest turn was refused, while that is news; empty if it is not."""
    refusal = state.refusal
    if refusal is None or state.ended is not None or not 0 <= state.now - refusal.at < REFUSAL_SECONDS:
        return []
    words = f"refused: {visible(refusal.reason)}"
    head = words.removeprefix("refused: ").partition(": ")[0]
    return list(dict.fromkeys((words, f"refused: {head}", head)))


def unmeasured_words(state: RunState, was: float | None) -> list[str]:
    """What is known of the newest turn before it is measured; `was` is tokens/s before it. Empty without a turn."""
    if (coming := takes_effect(state)) is not None:
        return _coming(coming)
    seen = provisional(state)
    return [] if seen is None else _seen(seen, was)


def effect_words(state: RunState) -> str:
    """`takes effect when batch #14 ends, in ~3 s`; empty if the newest turn waits for nothing."""
    coming = takes_effect(state)
    return _coming(coming)[0] if coming is not None else ""


def _coming(coming: Coming) -> list[str]:
    match coming.until:
        case "batch ends":
            batch, soon = f"batch #{coming.batch}", _in(coming.seconds)
            least = f"after #{coming.batch}, {soon}" if soon else f"after #{coming.batch}"
            ends = f"when {batch} ends"
            return [f"takes effect {ends}, {soon}", f"{ends}, {soon}", least, soon] if soon else [
                f"takes effect {ends}", ends, least
            ]  # fmt: skip
        case "rows end":
            return ["takes effect as rows end", "as rows end"]
        case "next step":
            return ["takes effect with the next step", "with the next step", "next step"]
        case "run goes on":
            return ["takes effect once the run resumes", "once the run resumes", "when resumed"]
        case "next batch":
            return ["takes effect with the next batch", "with the next batch", "next batch"]


def _seen(seen: Provisional, was: float | None) -> list[str]:
    soon = _in(seen.seconds_left)
    before, measured = f"was {rate(was)}" if was else "", f"measured {soon}" if soon else ""
    if seen.tokens_per_second is None:
        begun = "its first rows are under way" if seen.batch is None else f"batch #{seen.batch} has begun"
        tok = f"{before} tok/s" if before else ""
        short = "under way" if seen.batch is None else f"in #{seen.batch}"
        return [_listed(begun, tok, measured), _listed(begun, before), f"{short}, {before}" if before else short]
    now = f"~{rate(seen.tokens_per_second)}"
    of = f"{seen.ranks_with_steps} of {some(seen.active, 'rank')}"
    where = f" on {of}" if seen.ranks_with_steps < seen.active else ""
    steps = f", {some(seen.steps, 'step')}" if seen.steps else ""
    return [
        _listed(f"{now} tok/s so far{steps}{where}", before, measured),
        _listed(f"{now} tok/s so far{steps}", before, measured),
        _listed(f"{now} tok/s so far", before, measured),
        _listed(f"{now} so far", before, soon),
        ", ".join(part for part in (now, before, soon) if part),
        ", ".join(part for part in (now, before) if part),
        now,
    ]


def _listed(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _in(seconds: float | None) -> str:
    """`in ~3 s`, at least 1; empty if it is unknown."""
    if seconds is None:
        return ""
    whole = max(1, ceil(seconds))
    return f"in ~{clock(whole)}" if whole >= _CLOCK_FROM else f"in ~{whole} s"
