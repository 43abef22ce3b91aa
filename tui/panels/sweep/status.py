"""The head of the Sweep view: progress, the current trial, the time left; in the end the best and the chosen setting.

Also what is shown there in a run without a sweep. Pure.
"""

import shlex
from collections.abc import Sequence

from rich.cells import cell_len

from rankdeck.runner.forecast.forecast import whole_file
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepState
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.verdict import SweepSummary
from rankdeck.tui.panels.bars import bar
from rankdeck.tui.panels.overview.header import phase_words
from rankdeck.tui.settings.hint_keys import AS_THEY_COME, Keys, key_of
from rankdeck.tui.words.status import ENDED_EARLY, STATUS, eta_words
from rankdeck.tui.words.sweep import (
    best_words,
    how_measured,
    only_measures,
    planned,
    rate_places,
    scaling_words,
    short_setting,
    standing,
    tied_words,
    trial_of,
    what_happens,
)
from rankdeck.tui.words.sweep_command import best_command
from rankdeck.tui.words.text import (
    Line,
    between,
    clock,
    count,
    flow,
    line_width,
    pad,
    some,
    visible,
    whole_percent,
    wrap,
)

WILL_COME = (
    ("table", "tokens/s with their noise, ms per decode step, memory, waste, idle and more, for every setting"),
    ("chart", "tokens/s over batch size, a line for each number of ranks, and where a larger batch stops to pay"),
    ("scaling", "speedup and efficiency of more ranks, against the ideal"),
    ("best", "the fastest, and the chosen one as a command"),
)


def empty_lines(state: RunState, width: int, keys: Keys = AS_THEY_COME, *, steers: bool = True) -> list[Line]:
    """A run without a sweep: what a sweep shows and how to start it, by a key where this terminal steers the run."""
    title: Line = (("No sweep in this run yet.", "strong"),)
    elsewhere: Line = ((" What its settings have brought is in the Overview.", ""),)
    worked = any(period.batches for period in state.periods) and line_width((*title, *elsewhere)) <= width
    lines: list[Line] = [(*title, *elsewhere) if worked else title, ()]
    text = "A sweep measures every batch size with every number of ranks, on the models as they are loaded, and shows"
    lines.extend(((part, ""),) for part in wrap(text, width))
    for name, words in WILL_COME:
        parts = wrap(words, max(10, width - 11))
        lines.extend(((pad(name if number == 0 else "", 9), "key"), (part, "dim")) for number, part in enumerate(parts))
    lines.append(())
    if state.ended is not None or not steers:
        key, words = "rankdeck sweep PROMPTS", "measures afresh"
        words += ": this run has ended" if state.ended is not None else ", on one loading of the model"
    else:
        key, words = (
            key_of("run.sweep", keys),
            "starts one: answers are kept, and afterwards the run goes on at the chosen setting",
        )
    parts = wrap(words, max(10, width - len(key) - 2))
    lines.append(((f"{key}  ", "key"), (parts[0], "")))
    lines.extend(((" " * (len(key) + 2), ""), (part, "")) for part in parts[1:])
    return lines


def status_lines(
    state: RunState, sweep: SweepState, summary: SweepSummary, width: int, *, scaling: bool = False
) -> list[Line]:
    """Where the sweep stands, its bar, and the best so far; at the end the command that runs the chosen setting.

    `scaling` adds what the panels below say, for screens too small to show them: what more ranks brought, and whether
    larger batches may bring more.
    """
    share = len(sweep.records) / len(sweep.trials) if sweep.trials else 0.0
    over = sweep.settled is not None or state.ended is not None
    lines = (
        _standing(state, sweep, summary, width) if over else [_running(state, sweep, share, width), bar(share, width)]
    )
    lines.extend(_best(state, summary, width, over=over, scaling=scaling))
    return lines


def how_lines(state: RunState, sweep: SweepState, width: int) -> list[Line]:
    """How it is measured: what to know before comparing these figures with others."""
    return [((part, "dim"),) for part in wrap(visible(how_measured(state, sweep)), width)]


def _running(state: RunState, sweep: SweepState, share: float, width: int) -> Line:
    """The current trial and the time left, in fewer words where there is little room."""
    eta: Line = (("  ETA ", "dim"), (eta_words(state), "strong"))
    ends: Line = (*eta, (f"  {whole_percent(share)}", "strong"))
    now = sweep.current
    if now is None:
        right: Line = ((phase_words(state), "key"),) if state.sweep is None else ends
        return between(((standing(state, sweep), "strong"),), right, width)
    repeat: Line = ((f"   repeat {now.repeat} of {sweep.plan.repeats}", "dim"),)
    doing: Line = ((f"   {what_happens(sweep)} {clock(max(0.0, state.now - sweep.since))}", "key"),)
    full: Line = ((standing(state, sweep), "strong"),)
    short: Line = ((f"{trial_of(sweep)}: {short_setting(now)}", "strong"),)
    brief: Line = ((f"  {what_happens(sweep)}", "key"),)
    ways: tuple[tuple[Line, Line], ...] = (
        ((*full, *repeat, *doing), ends),
        ((*full, *doing), ends),
        ((*short, *doing), ends),
        ((*short, *brief), eta),
    )
    left, right = next((way for way in ways if line_width(way[0]) + line_width(way[1]) < width), ways[-1])
    return between(left, right, width)


def _standing(state: RunState, sweep: SweepState, summary: SweepSummary, width: int) -> list[Line]:
    """How the sweep ended, and how many of its trials were measured."""
    measured = sum(record.result is not None for record in sweep.records)
    of = len(sweep.trials) or planned(sweep.plan)
    settled = sweep.settled is not None
    mark, style = STATUS["completed" if settled and not sweep.ended_early else ENDED_EARLY]
    facts: list[Line] = [((f"{mark} ", style), (visible(standing(state, sweep)), style))]
    facts.append(((f"{count(measured)} of {count(of)}", "strong"), (" trials measured", "")))
    if settled and state.ended is None and not only_measures(state) and _at_the_chosen(state, summary):
        facts.append((("the run goes on at the chosen setting", "dim"),))
    lines: list[Line] = []
    for line in flow(facts, width):
        text = "".join(part for part, _ in line)
        lines.extend([line] if line_width(line) <= width else [((part, style),) for part in wrap(text, width)])
    return lines


def _at_the_chosen(state: RunState, summary: SweepSummary) -> bool:
    """Whether the knobs are as the sweep has set them: not after a resume with other settings, or a turn by hand."""
    chosen = summary.chosen
    return chosen is not None and chosen.setting == (state.active_ranks, state.batch_size)


def _best(state: RunState, summary: SweepSummary, width: int, *, over: bool, scaling: bool) -> list[Line]:
    best = summary.best
    if best is None:
        return [(("no setting could be measured", "warn"),)] if over and state.sweep is not None else []
    places, verdict = rate_places(summary.cells), summary.verdict
    said = best_words(best, places)
    if not over and (tied := tied_words(verdict)):
        said += f", {tied}"
    # Where there is little room, "so far" is left out.
    ways = [(label, said) for label in ("best " if over else "best so far ", "best ")]
    label, words = next((way for way in ways if len(way[0]) + len(way[1]) + 2 <= width), ways[-1])
    first, *rest = wrap(words, max(10, width - len(label) - 2))
    lines: list[Line] = [(("★ ", "good"), (label, "good"), (first, "strong"))]
    lines.extend(((" " * (len(label) + 2), ""), (part, "strong")) for part in rest)
    if over and summary.chosen is not None:
        if verdict is not None and verdict.sentence:
            style = "warn" if verdict.tied or not verdict.noise_known else ""
            lines.extend((("  ", ""), (part, style)) for part in wrap(verdict.sentence, max(10, width - 2)))
        if scaling:
            found = ((_growing(state, summary, best), "warn"), (scaling_words(summary), "strong"))
            lines.extend(
                (("  ", ""), (part, style))
                for words, style in found
                if words
                for part in wrap(words, max(10, width - 2))
            )
        lines.extend(command_lines(best_command(state, summary.chosen), width))
        lines.extend(((part, "dim"),) for words in file_lines(state, summary.chosen) for part in wrap(words, width))
    return lines


def _growing(state: RunState, summary: SweepSummary, best: Cell) -> str:
    """A warning that the largest batch tried was the fastest, if the file has prompts enough for larger ones."""
    grew = any(
        knee.open and (knee.active_ranks, knee.batch_size) == (best.active_ranks, best.batch_size)
        for knee in summary.knees
    )
    fills = best.batch_size * best.active_ranks < state.prompts
    return (
        f"still growing at {best.batch_size}, the largest tried: a larger one may be faster" if grew and fills else ""
    )


def command_lines(parts: Sequence[str], width: int) -> list[Line]:
    """A shell command in lines that can be copied: broken only where that is safe, with a backslash at each break."""
    room = width - 6
    words = [
        word for part in map(visible, parts) for word in ([part] if cell_len(part) <= room else _split(part, room))
    ]
    lines: list[str] = []
    for word in words:
        joined = bool(lines) and lines[-1].endswith(BROKEN)
        if lines and not joined and cell_len(lines[-1]) + 1 + cell_len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    shown: list[Line] = []
    for number, line in enumerate(lines):
        goes_on = number > 0 and lines[number - 1].endswith(BROKEN)
        start = "" if goes_on else "  " if number == 0 else "    "
        end = "" if line.endswith(BROKEN) or number + 1 == len(lines) else " \\"
        shown.append(((start + line.replace(BROKEN, "\\") + end, "key"),))
    return shown


BROKEN = "\0"
"""Marks the end of a piece that continues in the next line without a space."""


def _split(part: str, room: int) -> list[str]:
    """The words of a part that is wider than `room`; words that are still too wide are broken into pieces."""
    pieces: list[str] = []
    for word in shlex.split(part):
        piece = ""
        # Inside quotes a backslash at a break would be kept, so characters are escaped one by one instead.
        for character in word:
            sound = character.isalnum() or character in "_@%+=:,./-"
            cell = character if sound else f"\\{character}"
            if cell_len(piece) + cell_len(cell) > room:
                pieces.append(piece + BROKEN)
                piece = ""
            piece += cell
        pieces.append(piece)
    return pieces


def file_lines(state: RunState, cell: Cell) -> list[str]:
    """The predicted time of the whole file at a setting. Its last round is seldom full, unlike those measured."""
    row = whole_file(state, cell.active_ranks, cell.batch_size)
    if row is None:
        return []
    length = _length(state.config) if state.config is not None else ""
    return [
        f"predicted for the {some(state.prompts, 'prompt')} of the file at {length}: {row.seconds:,.1f} s in "
        f"{some(row.rounds, 'round')}, {row.tokens_per_second:,.1f} tok/s"
    ]


def _length(config: RunConfig) -> str:
    """How long the run's own answers are, with the limit in tokens where its trials cut answers shorter."""
    if config.new_tokens == config.max_new_tokens:
        return config.length_mode
    return f"{config.length_mode}, {'' if config.ignore_eos else 'up to '}{config.max_new_tokens:,} tokens each"
