"""The tour in words: what to look at while a setting is measured, what each brought, and how the tour ended. Pure.

For screen and `--plain` alike; `runner.advice.tour` has the walk.
"""

from collections.abc import Mapping

from rankdeck.runner.advice.tour import LARGEST, LEAST_GAIN, Measured, Setting, Taken, Tour, Why
from rankdeck.tui.words.text import rate, some

Captions = tuple[str, ...]
"""The same in more and in fewer words, the longest first: the first one that fits is shown."""

_TAKEN: Mapping[Taken, str] = {
    "by hand": "you have the knobs",
    "elsewhere": "somebody else has turned a knob",
    "paused": "the run was paused",
    "search": "a search for the best batch size has begun",
    "sweep": "a sweep has begun",
    "stopping": "the run is stopping",
}


def captions(tour: Tour) -> Captions:
    """What to say of the tour now."""
    if tour.taken is not None:
        return (f"the tour ends here: {_TAKEN[tour.taken]}", "the tour ends here")
    if tour.why is not None:
        return _end(tour, tour.why)
    ranks, size = tour.now
    where = f"{ranks} of {some(tour.ranks, 'rank')} at batch size {size:,}"
    if len(tour.done) < 1:
        look = "the figure that all others are compared with"
        return (f"{where}: {look}", where)
    before = tour.done[-1].setting
    if ranks > before.active_ranks:
        factor = "double" if ranks == 2 * before.active_ranks else f"{ranks / before.active_ranks:.1f} x"
        more = f"tokens/s should near {factor}"
        doubt = "on one CPU they share its cores and memory" if tour.on_cpu else "if not, the ranks share something"
        return (f"{where}: {more}; {doubt}", f"{where}: {more}", where)
    look = "twice the rows for each read of the weights"
    test = f"does tokens/s still rise by {LEAST_GAIN - 1:.0%}?"
    return (f"{where}: {look}; {test}", f"{where}: {test}", where)


def result_words(tour: Tour) -> str:
    """What the setting measured last brought, and against which: `2 ranks at batch size 4: 83 tok/s, 1.4 x …`."""
    last = tour.done[-1]
    said = f"{setting_words(last.setting)}: {rate(last.rate)} tok/s"
    if len(tour.done) < 2 or tour.done[-2].rate <= 0:
        return said
    before = tour.done[-2]
    return f"{said}, {last.rate / before.rate:.2f} x that of {setting_words(before.setting)}"


def setting_words(setting: Setting) -> str:
    return f"{some(setting.active_ranks, 'rank')} at batch size {setting.batch_size:,}"


def _end(tour: Tour, why: Why) -> Captions:
    best = tour.best
    if best is None:
        return (f"the tour ends: {_why(tour, why)}, and no setting was measured", "the tour ends: nothing was measured")
    head = f"best: batch size {best.setting.batch_size:,} x {some(best.setting.active_ranks, 'rank')}"
    head = f"{head}, {rate(best.rate)} tok/s"
    gain = _gain(tour.done[0], best)
    kept = "the answers are all kept"
    return (
        f"{head}{gain}; {kept} ({_why(tour, why)})",
        f"{head}{gain}; {kept}",
        f"{head}{gain}",
        head,
    )


def _gain(first: Measured, best: Measured) -> str:
    if best == first:
        return ", the first setting"
    return f", {best.rate / first.rate:.1f} x the first setting" if first.rate > 0 else ""


def _why(tour: Tour, why: Why) -> str:
    match why:
        case "gain":
            return f"batch size {tour.done[-1].setting.batch_size:,} brought less than {LEAST_GAIN - 1:.0%} more"
        case "memory":
            return f"batch size {2 * tour.now.batch_size:,} would not fit in memory"
        case "prompts":
            return "too few prompts are left for the next setting"
        case "largest":
            return f"no batch size above {LARGEST} is tried"
        case "ranks only":
            return "ranks only: batch size means rows at once to the continuous engine"
        case "capped":
            return f"batch size {tour.now.batch_size:,} did not fit in memory"
        case "ran out":
            return "the prompts ran out"
