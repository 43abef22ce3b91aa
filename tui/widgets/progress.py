"""The progress panel: how far the run is and when it ends; before that, how far its loading is. Pure."""

from typing import NamedTuple

from runner.state import RunState
from tui.text import (
    ELLIPSIS,
    UNKNOWN,
    Line,
    between,
    clock,
    count,
    cut,
    percent,
    size,
    some,
    whole_percent,
    wrap,
)
from tui.widgets.bars import bar
from tui.widgets.header import phase_words
from tui.widgets.hints import batch_size_reason
from tui.widgets.notice import relaunching
from tui.widgets.turned import scaling_line, scaling_table


class Fact(NamedTuple):
    """A label and its value, and how both are said where there is little room."""

    label: str
    value: str
    style: str = ""
    short_label: str = ""
    short_value: str = ""

    def line(self, width: int, *, short: bool = False) -> Line:
        label, value = self.label, self.value
        if short or len(label) + 1 + len(value) > width:
            label, value = self.short_label or label, self.short_value or value
        return between(((label, "dim"),), ((value, self.style),), width)


def progress_lines(state: RunState, width: int, height: int) -> list[Line]:
    if state.config is None:
        waiting: Line = (("waiting for the run to say what it is", "dim"),)
        return [waiting]
    loading = state.first_batch_at is None and state.ended is None
    top = _loading(state, width) if loading else _done(state, width)
    facts = _facts(state)
    single = [fact.line(width) for fact in facts]
    half = (width - 3) // 2
    pairs: list[Line] = []
    for left, right in zip(facts[::2], [*facts[1::2], None], strict=False):
        beside = right.line(width - half - 3, short=True) if right else ()
        pairs.append((*left.line(half, short=True), ("   ", ""), *beside))
    why: list[Line] = [((part, "dim"),) for part in wrap(reason, width)] if (reason := batch_size_reason(state)) else []
    titled, table = scaling_table(state, width), scaling_table(state, width, titled=False)
    one_line = scaling_line(state, width)
    # From much room to little: air goes first, then facts stand side by side, then the table is one line.
    ways = (
        _blocks(top, single, why, titled),
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
    """Blocks with air between them."""
    lines: list[Line] = []
    for block in blocks:
        lines.extend([*([()] if lines and block else []), *block])
    return lines


def _done(state: RunState, width: int) -> list[Line]:
    share = state.progress if state.ended is None else (state.done / state.prompts if state.prompts else 1.0)
    head: Line = ((count(state.done), "strong"), (f" / {count(state.prompts)} prompts", ""))
    return [between(head, ((whole_percent(share), "strong"),), width), bar(share, width)]


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


def _facts(state: RunState) -> list[Fact]:
    """The most wanted first."""
    assert state.config is not None
    most = Fact("new tokens each", f"up to {count(state.config.max_new_tokens)}", "", "new")
    if state.first_batch_at is None and state.ended is None:
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
        facts = [Fact("ETA", clock(state.eta_seconds), "strong")]
    waste = percent(state.padding_waste) if any(rank.slots for rank in state.ranks) else UNKNOWN
    facts += [
        Fact("output tokens", count(state.output_tokens + state.in_flight_tokens), "", "tokens"),
        _batch_size(state),
        Fact("padding waste", waste, "", "waste"),
    ]
    if state.failed:
        facts.append(Fact("failed", some(state.failed, "prompt"), "warn"))
    return facts


def _batch_size(state: RunState) -> Fact:
    assert state.config is not None
    if not state.stretches:
        size_asked = state.config.batch_size
        return Fact("batch size", "auto" if size_asked is None else count(size_asked), "", "batch")
    now = count(state.batch_size)
    if state.auto:
        return Fact("batch size", f"{now} (auto: trying)", "key", "batch", f"{now} trying")
    return Fact("batch size", f"{now} (auto)" if batch_size_reason(state) else now, "", "batch")
