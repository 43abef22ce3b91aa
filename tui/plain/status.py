"""Where a run stands, as lines of a log: the tables and sentences of the Overview, without a screen. Pure.

Knows which of them go into a log. All are made in tui/panels; only the progress bar and line are put together here.
"""

from collections import Counter
from collections.abc import Sequence

from rankdeck.runner.advice.bound import bound
from rankdeck.runner.advice.findings import findings
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.overview.devices import device_figures
from rankdeck.tui.panels.overview.header import phase_words
from rankdeck.tui.panels.overview.knob_effect import turn_lines, what_if_words, what_ifs
from rankdeck.tui.panels.overview.progress import done_words, in_flight, progress_facts
from rankdeck.tui.panels.overview.ranks import rank_lines
from rankdeck.tui.panels.overview.settings_table import settings_plain
from rankdeck.tui.panels.overview.throughput import rate_facts
from rankdeck.tui.words import text
from rankdeck.tui.words.status import eta_words, shown_phase
from rankdeck.tui.words.sweep import sweep_progress_line
from rankdeck.tui.words.text import Line

WIDE = 1000
"""A width in cells at which no panel cuts or wraps anything."""


def unstyled(lines: Sequence[Line]) -> list[str]:
    return [text.plain([line]) for line in lines]


def progress_line(now: RunState) -> str:
    """How far, how fast, how long, in one line; of a sweep by its trials."""
    if now.sweep is not None and now.sweeping:
        return sweep_progress_line(now, now.sweep)
    phases = Counter(shown_phase(now, rank) for rank in now.ranks)
    ranks = ", ".join(f"{text.some(number, 'rank')} {phase}" for phase, number in phases.items())
    facts = [
        *unstyled([done_words(now)]),
        *([f"{text.count(prompts)} in flight"] if (prompts := in_flight(now)) else []),
        *(fact.strip() for fact in unstyled(rate_facts(now))),
        *(f"{fact.label} {fact.value}" for fact in progress_facts(now)),
    ]
    return f"{', '.join(facts)} ({ranks})"


def status_lines(now: RunState) -> list[str]:
    """Ranks, GPUs or processes, what the run is bound by, the last turn of a knob, the settings, and what-ifs."""
    ranks = rank_lines(now, WIDE) if now.ranks else []
    verdict = bound(now)
    said = [verdict.text] if verdict is not None else []
    return [*unstyled([*ranks, *device_figures(now)]), *said, *knob_lines(now), *what_if_lines(now)]


def knob_lines(now: RunState) -> list[str]:
    """The last turn of a knob, and what each setting has brought so far; empty before anything is measured."""
    return [*unstyled(turn_lines(now, WIDE)), *table_lines(now)]


def table_lines(now: RunState) -> list[str]:
    """The table of settings: a row begins with batch size and active ranks, in figures."""
    return unstyled(settings_plain(now))


def what_if_lines(now: RunState) -> list[str]:
    said = (what_if_words(now, change) for change in what_ifs(now))
    return [f"with {knob}: {gain} tok/s" for knob, gain in said]


def finding_lines(now: RunState) -> list[str]:
    """The findings of the Timeline."""
    return [f"timeline: {text.visible(finding.text)}" for finding in findings(now)]


def bar_line(now: RunState, width: int, full: str = "█", empty: str = "░") -> str:
    """Share, bar, prompts, tokens/s, ETA and ranks in `width` cells at most; empty before there is a run."""
    if now.config is None:
        return ""
    share, facts = now.done_share, [phase_words(now)]
    if now.ended is None and now.first_batch_at is None and now.ranks:
        ready = sum(rank.ready is not None for rank in now.ranks)
        share, facts = ready / len(now.ranks), [phase_words(now), f"{ready}/{len(now.ranks)} ranks ready"]
    elif now.first_batch_at is not None:
        facts = [f"{now.done:,}/{now.prompts:,} prompts", f"{text.rate(now.rate_now)} tok/s"]
        facts += [f"ETA {eta_words(now)}", f"{now.active_ranks}/{len(now.ranks)} ranks"]
        if now.phase != "running" or now.paused is not None or now.sweeping:
            facts.insert(0, phase_words(now))
    # The last facts are dropped first; the bar gets the cells that are left.
    while facts and len(said := "  ".join(facts)) + 5 > width:
        facts.pop()
    if not facts:
        return text.whole_percent(share)[:width]
    room = min(30, width - len(said) - 8)
    done = round(share * room)
    drawn = f"{full * done}{empty * (room - done)}  " if room >= 5 else ""
    return f"{text.whole_percent(share):>4} {drawn}{said}"[:width]
