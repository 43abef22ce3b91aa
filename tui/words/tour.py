"""The tour in words: what to look at while a setting is measured, what each brought, and how the tour ended. Pure.

For screen and `--plain` alike; `runner.advice.tour` has the walk.
"""

from collections.abc import Mapping

from rankdeck.runner.advice.tour import LEAST_GAIN, Taken, Tour, Why
from rankdeck.runner.advice.tour_limits import LARGEST, Setting
from rankdeck.tui.words.settings import best_setting_words, gain_words, setting_words, short_setting
from rankdeck.tui.words.sweep import times
from rankdeck.tui.words.text import rate, some

Captions = tuple[str, ...]
"""The same in more and in fewer words, the longest first: the first one that fits is shown."""

_TAKEN: Mapping[Taken, str] = {
    "by hand": "you have the knobs",
    "elsewhere": "somebody else turned a knob",
    "paused": "the run was paused",
    "search": "a search for the best batch size has begun",
    "sweep": "a sweep has begun",
    "stopping": "the run is stopping",
}

_SHORTLY: Mapping[Why, str] = {
    "gain": "more gains little",
    "memory": "no memory for more",
    "prompts": "too few prompts left",
    "largest": f"none above {LARGEST} tried",
    "ranks only": "ranks only",
    "capped": "out of memory",
    "refused": "turn refused",
    "ran out": "prompts ran out",
    "run stopped": "run stopped",
    "run failed": "run failed",
}

_CUT_SHORT: tuple[Why, ...] = ("prompts", "refused", "ran out", "run stopped", "run failed")
"""The tour ended while tokens/s may still have been rising: the best is the best *so far*."""


def captions(tour: Tour) -> Captions:
    """What to say of the tour now."""
    if tour.taken is not None:
        return _taken(tour, tour.taken)
    if tour.why is not None:
        return _end(tour, tour.why)
    ranks, size = tour.now
    where = f"{ranks} of {some(tour.ranks, 'rank')} at batch size {size:,}"
    if len(tour.done) < 1:
        look = "the baseline for all the others"
        return (f"{where}: {look}", where)
    before = tour.done[-1].setting
    if ranks > before.active_ranks:
        twice = ranks == 2 * before.active_ranks
        more = "tok/s should nearly double" if twice else f"tok/s should be near {ranks / before.active_ranks:.1f}x"
        doubt = "on one CPU they share its cores and memory" if tour.on_cpu else "if not, the ranks share something"
        return (f"{where}: {more}; {doubt}", f"{where}: {more}", where)
    look = "twice the rows for each read of the weights"
    test = f"does tok/s still rise by {LEAST_GAIN - 1:.0%}?"
    return (f"{where}: {look}; {test}", f"{where}: {test}", where)


def result_words(tour: Tour) -> str:
    """What the setting measured last brought, and against which: `batch size 4 x 2 ranks: 83 tok/s, 1.40x …`."""
    last = tour.done[-1]
    said = f"{setting_words(*last.setting)}: {rate(last.rate)} tok/s"
    if len(tour.done) < 2 or tour.done[-2].rate <= 0:
        return said
    before = tour.done[-2]
    return f"{said}, {times(last.rate / before.rate)} that of {setting_words(*before.setting)}"


def _taken(tour: Tour, taken: Taken) -> Captions:
    """Who has the knobs now, or where they stand if nobody has."""
    rests = tour.rests or tour.now
    if taken == "left":
        ends = f"the tour ends here, at {setting_words(*rests)}"
        which = f"the best so far, {rate(tour.best.rate)} tok/s" if tour.best is not None else "where it began"
        return (f"{ends}: {which}", ends, f"the tour ends, at {short_setting(*rests)}")
    ends, who = "the tour ends here", _TAKEN[taken]
    if taken not in ("sweep", "stopping") and rests.active_ranks > tour.now.active_ranks:
        back = f"{some(rests.active_ranks, 'rank')} active again"
        return (f"{ends}, with {back}: {who}", f"{ends}: {back}", f"{ends}: {who}", ends)
    return (f"{ends}: {who}", ends)


def _end(tour: Tour, why: Why) -> Captions:
    best, reason, shortly = tour.best, _why(tour, why), _SHORTLY[why]
    if best is None:
        return _back(tour, tour.rests or tour.now, reason, shortly)
    first = tour.began or tour.done[0]
    than = first.rate if best.setting != first.setting and first.rate > 0 else None
    head = best_setting_words(*best.setting, best.rate, None)
    gain = f", {gain_words(best.rate, than)}" if than else ""
    head += f"{gain} its first setting" if than else ", its first setting"
    least = f"{short_setting(*best.setting)}, {rate(best.rate)} tok/s{gain}"
    lead = f"over; {'best so far' if why in _CUT_SHORT else 'best'}: "
    head, least = head.replace("best: ", lead, 1), f"{lead}{least}"
    return (
        f"{head}; all answers are kept ({reason})",
        f"{head} ({reason})",
        f"{head} ({shortly})",
        f"{least} ({shortly})",
        f"{lead}{short_setting(*best.setting)} ({shortly})",
    )


def _back(tour: Tour, rests: Setting, reason: str, shortly: str) -> Captions:
    """Nothing was measured that the start could be compared with."""
    if rests != tour.start:
        return (f"the tour ends: {reason}, and no best setting was found", f"the tour ends: no best ({shortly})")
    return (
        f"the tour ends: {reason}; back to {setting_words(*rests)}, where it began",
        f"the tour ends, back at {setting_words(*rests)} ({shortly})",
        f"the tour ends at {short_setting(*rests)} ({shortly})",
    )


def _why(tour: Tour, why: Why) -> str:
    match why:
        case "gain":
            return f"batch size {tour.now.batch_size:,} brought less than {LEAST_GAIN - 1:.0%} more"
        case "memory":
            return f"batch size {2 * tour.now.batch_size:,} would not fit in memory"
        case "prompts":
            return "too few prompts are left for the next setting"
        case "largest":
            return f"no batch size above {LARGEST} is tried"
        case "ranks only":
            return "ranks only: batch size means rows at once in the continuous engine"
        case "capped":
            return f"batch size {tour.now.batch_size:,} did not fit in memory"
        case "refused":
            return f"the run refused {setting_words(*tour.now)}"
        case "ran out":
            return "the prompts ran out"
        case "run stopped":
            return "the run was stopped"
        case "run failed":
            return "the run failed"
