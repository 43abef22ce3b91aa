"""The progress panel: how far the run has come and when it ends; before that, how far loading has come. Pure."""

from typing import NamedTuple

from rankdeck.runner.forecast.forecast import WhatIf
from rankdeck.runner.protocol.sweep_plan import SweepState
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.cells import best, cells
from rankdeck.runner.sweep.verdict import tied_with_best
from rankdeck.tui.panels.bars import bar
from rankdeck.tui.panels.overview.advice import batch_size_reason
from rankdeck.tui.panels.overview.header import phase_words
from rankdeck.tui.panels.overview.knob_effect import what_if_words, what_ifs
from rankdeck.tui.panels.overview.notice import relaunching
from rankdeck.tui.panels.overview.scaling import scaling_line, scaling_table
from rankdeck.tui.words.status import eta_words
from rankdeck.tui.words.sweep import (
    estimate_value,
    only_measures,
    planned,
    rate_places,
    short_setting,
    shown_sweep,
    trial_of,
    what_happens,
)
from rankdeck.tui.words.text import (
    ELLIPSIS,
    UNKNOWN,
    Line,
    between,
    clock,
    count,
    cut,
    line_width,
    percent,
    size,
    some,
    whole_percent,
    wrap,
)


class Fact(NamedTuple):
    """A label and its value, with shorter forms for a narrow panel."""

    label: str
    value: str
    style: str = ""
    short_label: str = ""
    short_value: str = ""
    least_label: str = ""

    def line(self, width: int, *, short: bool = False) -> Line:
        label, value = self.label, self.value
        if short or len(label) + 1 + len(value) > width:
            label, value = self.short_label or label, self.short_value or value
        if len(label) + 1 + len(value) > width:
            label = self.least_label or label
        return between(((label, "dim"),), ((value, self.style),), width)


def progress_lines(state: RunState, width: int, height: int) -> list[Line]:
    if state.config is None:
        waiting: Line = (("waiting for the run to say what it is", "dim"),)
        return [waiting]
    loading = state.first_batch_at is None and state.ended is None
    top = _loading(state, width) if loading else _done(state, width)
    facts = progress_facts(state)
    single = [fact.line(width) for fact in facts]
    half = (width - 3) // 2
    pairs: list[Line] = []
    for left, right in zip(facts[::2], [*facts[1::2], None], strict=False):
        beside = right.line(width - half - 3, short=True) if right else ()
        pairs.append((*left.line(half, short=True), ("   ", ""), *beside))
    reason = "" if only_measures(state) else batch_size_reason(state)
    why: list[Line] = [((part, "dim"),) for part in wrap(reason, width)] if reason else []
    titled, table = scaling_table(state, width), scaling_table(state, width, titled=False)
    one_line = scaling_line(state, width)
    ifs = [] if loading else _what_ifs(state, width)
    # From much room to little: blank lines go first, then facts pair up, then the table becomes one line.
    ways = (
        _blocks(top, single, why, ifs, titled),
        _blocks(top, [*single, *why], ifs, titled),
        _blocks(top, [*single, *why], [*ifs, *table]),
        _blocks(top, [*single, *why, *ifs], table),
        _blocks(top, [*single, *why], titled),
        [*_blocks(top, [*single, *why]), *table],
        [*top, *single, *why, *table],
        _blocks(top, [*pairs, *why], table),
        [*top, *pairs, *why, *table],
        [*top, *single, *why, *one_line],
        [*top, *pairs, *why, *one_line],
        [*top, *pairs, *one_line, *why],
    )
    height = max(1, height)
    lines = next((way for way in ways if len(way) <= height), ways[-1])
    if len(lines) > height:
        last = "".join(text for text, _ in lines[height - 1])
        lines = [*lines[: height - 1], lines[height - 1] if not why else ((cut(last + ELLIPSIS, width), "dim"),)]
    return lines


def _blocks(*blocks: list[Line]) -> list[Line]:
    """Blocks with a blank line between them."""
    lines: list[Line] = []
    for block in blocks:
        lines.extend([*([()] if lines and block else []), *block])
    return lines


def _done(state: RunState, width: int) -> list[Line]:
    if only_measures(state) and state.sweep is not None:
        return _trials(state, state.sweep, width)
    share = state.progress if state.ended is None else (state.done / state.prompts if state.prompts else 1.0)
    head = done_words(state)
    in_hand = in_flight(state)
    figure: Line = ((whole_percent(share), "strong"),)
    ways = [f"  +{count(in_hand)} in flight", f" +{count(in_hand)}", ""] if in_hand else [""]
    said = next((words for words in ways if line_width((*head, (words, ""), *figure)) + 2 <= width), "")
    more: Line = ((said, "dim"),)
    return [between((*head, *more), figure, width), bar(share, width)]


def done_words(state: RunState) -> Line:
    """`64 / 100 prompts`"""
    return ((count(state.done), "strong"), (f" / {count(state.prompts)} prompts", ""))


def in_flight(state: RunState) -> int:
    """Prompts in hand, whose tokens count towards the share done; 0 once the run has ended and during a sweep."""
    return 0 if state.ended is not None or state.sweeping else sum(rank.rows for rank in state.ranks)


def _trials(state: RunState, sweep: SweepState, width: int) -> list[Line]:
    """How many trials are over, while trials are the work."""
    over, of = len(sweep.records), len(sweep.trials)
    if state.ended is None and state.sweeping:
        head: Line = ((trial_of(sweep), "strong"),)
    else:
        head = ((count(over), "strong"), (f" / {some(of, 'trial')}", ""))
    return [between(head, ((whole_percent(state.progress), "strong"),), width), bar(state.progress, width)]


def _loading(state: RunState, width: int) -> list[Line]:
    ready = sum(rank.ready is not None for rank in state.ranks)
    words = phase_words(state)
    if state.phase == "model" and state.model is not None:
        model = state.model
        if model.done is not None and model.total:
            share = model.done / model.total
            head: Line = ((words, "strong"),)
            figures: Line = ((f"{size(model.done)} / {size(model.total)}", "dim"),)
            return [between(head, ((whole_percent(share), "strong"),), width), bar(share, width), figures]
        done: Line = ((size(model.done), "strong"),) if model.done is not None else ()
        return [between(((words, "strong"),), done, width), bar(0, width)]
    if state.ranks:
        figure: Line = ((f"{ready} / {len(state.ranks)} ready", "strong"),)
        return [between(((words, "strong"),), figure, width), bar(ready / len(state.ranks), width)]
    return [((words, "strong"),), (("the ranks are launched once the model is there", "dim"),)]


def progress_facts(state: RunState) -> list[Fact]:
    """The most important first."""
    assert state.config is not None
    most = Fact("new tokens each", f"up to {count(state.config.new_tokens)}", "", "new")
    if state.first_batch_at is None and state.ended is None:
        sweep = shown_sweep(state)
        if sweep is not None and only_measures(state):
            return [Fact("prompts", count(state.prompts)), most, Fact("trials", count(planned(sweep.plan)))]
        return [Fact("prompts", count(state.prompts)), most, _batch_size(state)]
    if state.ended is not None:
        facts = [Fact("took", clock(state.seconds), "strong")]
    elif relaunching(state):
        ready = sum(rank.ready is not None for rank in state.ranks)
        facts = [
            Fact(
                "ranks launched afresh",
                f"{ready} / {len(state.ranks)} ready",
                "strong",
                "ready",
                f"{ready}/{len(state.ranks)}",
            )
        ]
    else:
        facts = [Fact("ETA", eta_words(state), "strong")]
    if only_measures(state) and state.sweep is not None:
        return [*facts, *_sweep_facts(state, state.sweep)]
    waste = percent(state.padding_waste) if any(rank.slots for rank in state.ranks) else UNKNOWN
    facts += [
        Fact("output tokens", count(state.output_tokens + state.in_flight_tokens), "", "tokens", "", "tok"),
        _batch_size(state),
        Fact("padding waste", waste, "", "waste"),
    ]
    if state.failed:
        facts.append(Fact("failed", some(state.failed, "prompt"), "warn"))
    return facts


def _sweep_facts(state: RunState, sweep: SweepState) -> list[Fact]:
    """What is being measured, the best so far, and the prompts done if their answers are kept."""
    facts = []
    if sweep.current is not None and state.ended is None:
        doing = what_happens(sweep)
        facts.append(Fact(doing, short_setting(sweep.current), "key"))
        facts.append(Fact("repeat", f"{sweep.current.repeat} of {sweep.plan.repeats}"))
    found = cells(sweep)
    fastest = best(found)
    if fastest is not None and fastest.tokens_per_second is not None:
        rate = estimate_value(fastest.tokens_per_second, rate_places(found)).text
        shown = short_setting(fastest)
        tied = bool(tied_with_best(found))
        label, short = ("best, tied", "tied") if tied else ("best", "best")
        facts.append(Fact(label, f"{shown}: {rate} tok/s", "good", short, f"{shown}: {rate}"))
    if sweep.plan.outputs:
        facts.append(Fact("prompts done", f"{count(state.done)} / {count(state.prompts)}", "", "prompts"))
    else:
        tokens = count(state.output_tokens + state.in_flight_tokens)
        facts.append(Fact("output tokens", tokens, "", "tokens", "", "tok"))
    return facts


def _what_ifs(state: RunState, width: int) -> list[Line]:
    """What a knob would bring: one rank more or fewer, and twice the batch size."""
    found = what_ifs(state)
    ranks = next((one for one in found if one.active_ranks != state.active_ranks), None)
    larger = next((one for one in found if one.batch_size > state.batch_size), None)
    return [_what_if(one, state, width) for one in (larger, ranks) if one is not None]


def _what_if(change: WhatIf, state: RunState, width: int) -> Line:
    knob, gain = what_if_words(state, change)
    ways = ((f"with {knob}", f"{gain} tok/s"), (knob, f"{gain} tok/s"), (knob, gain))
    left, right = next((way for way in ways if len(way[0]) + len(way[1]) < width), ways[-1])
    return between(((left, "dim"),), ((right, "dim"),), width)


def _batch_size(state: RunState) -> Fact:
    assert state.config is not None
    if not state.periods:
        size_asked = state.config.batch_size
        return Fact("batch size", "auto" if size_asked is None else count(size_asked), "", "batch")
    now = count(state.batch_size)
    if state.auto:
        return Fact("batch size", f"{now} (auto: trying)", "key", "batch", f"{now} trying")
    return Fact("batch size", f"{now} (auto)" if batch_size_reason(state) else now, "", "batch")
