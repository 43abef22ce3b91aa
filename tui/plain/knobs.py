"""What turning the knobs brought and what the timeline shows, as lines of a log. Pure.

The figures are those of the Overview's chart and scaling table and the sentences those of the Timeline, so that
whoever reads lines misses nothing of them.
"""

from rankdeck.runner.advice.advice import KnobEffect, early_turn, last_turn
from rankdeck.runner.advice.findings import findings
from rankdeck.runner.state import RunState
from rankdeck.runner.state.periods import ScalingRow
from rankdeck.tui.panels.overview.knob_effect import EARLY
from rankdeck.tui.panels.overview.scaling import scaling_rows
from rankdeck.tui.plain.sweep import aligned
from rankdeck.tui.words.text import NOTHING, UNKNOWN, gib, percent, rate, some, visible


def knob_lines(now: RunState) -> list[str]:
    """The last turn of a knob and the scaling so far, a line each; nothing while there is nothing to compare."""
    rows = scaling_rows(now) if not now.sweeping else []
    scaling = [f"scaling at batch size {now.batch_size:,}: {'; '.join(map(_in_words, rows))}"] if rows else []
    return [*turn_lines(now), *scaling]


def closing_lines(now: RunState) -> list[str]:
    """What is said of the knobs and of the timeline once a run is over: the scaling as a table, then the findings."""
    return [*turn_lines(now), *scaling_table(now), *finding_lines(now)]


def turn_lines(now: RunState) -> list[str]:
    """The knob that was turned last, tokens/s and memory before and after."""
    turned, early = last_turn(now), early_turn(now)
    if early is not None and not now.sweeping and (knobs := _knobs(early)):
        return [f"{knobs}: {EARLY}"]
    if turned is None or now.sweeping:
        return []
    knobs = _knobs(turned)
    if not knobs:
        return []
    was, is_now = turned.before.tokens_per_second or 0.0, turned.after.tokens_per_second
    if is_now is None:
        # What has no figure by the end gets none any more.
        return [] if now.ended is not None else [f"{knobs}: {rate(was)} tok/s -> measuring"]
    gain = f" ({is_now / was - 1:+.0%})" if was > 0 else ""
    return [f"{knobs}: {rate(was)} -> {rate(is_now)} tok/s{gain}{_memory(turned)}"]


def _knobs(turned: KnobEffect) -> str:
    before, after = turned.before, turned.after
    pairs = (
        ("batch size", before.batch_size, after.batch_size),
        ("active ranks", before.active_ranks, after.active_ranks),
    )
    return " and ".join(f"{name} {was:,} -> {is_now:,}" for name, was, is_now in pairs if was != is_now)


def _memory(turned: KnobEffect) -> str:
    peaks = turned.before.peak_memory_bytes, turned.after.peak_memory_bytes
    if all(peak is None for peak in peaks):
        return ""
    return f", memory {' -> '.join(UNKNOWN if peak is None else gib(peak) for peak in peaks)} GiB"


def _in_words(row: ScalingRow) -> str:
    against = ""
    if row.active_ranks > 1 and row.speedup is not None and row.efficiency is not None:
        against = f", speedup {row.speedup:.2f}, efficiency {percent(row.efficiency)}"
    return f"{some(row.active_ranks, 'rank')} {rate(row.tokens_per_second)} tok/s{against}"


def scaling_table(now: RunState) -> list[str]:
    """A row per number of active ranks that was run at the batch size of now."""
    rows = scaling_rows(now) if not now.sweeping else []
    if not rows:
        return []
    cells = [
        (
            str(row.active_ranks),
            rate(row.tokens_per_second),
            NOTHING if row.speedup is None else f"{row.speedup:.2f}",
            NOTHING if row.efficiency is None else percent(row.efficiency),
        )
        for row in rows
    ]
    return [
        f"scaling at batch size {now.batch_size:,}:",
        *aligned([("ranks", "tok/s", "speedup", "efficiency"), *cells]),
    ]


def finding_lines(now: RunState) -> list[str]:
    """The sentences above the Timeline."""
    return [f"timeline: {visible(finding.text)}" for finding in findings(now)]
