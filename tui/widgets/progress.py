"""The progress panel: how far the run is and when it ends; before that, how far its loading is. Pure."""

from runner.state import RunState
from tui.text import (
    UNKNOWN,
    Line,
    between,
    clock,
    count,
    percent,
    size,
    some,
    whole_percent,
)
from tui.widgets.bars import bar
from tui.widgets.header import phase_words

_SHORT = {"output tokens": "tokens", "batch size": "batch", "padding waste": "waste", "new tokens each": "new"}


def progress_lines(state: RunState, width: int, height: int) -> list[Line]:
    if state.config is None:
        waiting: Line = (("waiting for the run to say what it is", "dim"),)
        return [waiting]
    facts = _facts(state)
    loading = state.first_batch_at is None and state.ended is None
    top = _loading(state, width) if loading else _done(state, width)
    # Side by side where there is no room below one another.
    rows = [_fact(fact, width) for fact in facts]
    if len(top) + len(rows) > height:
        half = (width - 3) // 2
        pairs = zip(facts[::2], [*facts[1::2], None], strict=False)
        rows = [
            (*_fact(_short(left), half), ("   ", ""), *(_fact(_short(right), width - half - 3) if right else ()))
            for left, right in pairs
        ]
    space: list[Line] = [()] if len(top) + 1 + len(rows) <= height else []
    return [*top, *space, *rows][: max(1, height)]


def _short(fact: tuple[str, str, str]) -> tuple[str, str, str]:
    """The fact under the name it has in the ranks table."""
    return (_SHORT.get(fact[0], fact[0]), *fact[1:])


def _fact(fact: tuple[str, str, str], width: int) -> Line:
    label, value, style = fact
    return between(((label, "dim"),), ((value, style),), width)


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


def _facts(state: RunState) -> list[tuple[str, str, str]]:
    """Label, value and the value's style, the most wanted first."""
    assert state.config is not None
    started = state.first_batch_at is not None
    waste = percent(state.padding_waste) if any(rank.slots for rank in state.ranks) else UNKNOWN
    facts = [
        ("ETA", clock(state.eta_seconds) if started else clock(None), "strong"),
        ("output tokens", count(state.output_tokens + state.in_flight_tokens), ""),
        ("batch size", "auto" if state.config.batch_size is None else count(state.config.batch_size), ""),
        ("padding waste", waste, ""),
    ]
    if state.ended is not None:
        facts[0] = ("took", clock(state.seconds), "strong")
    if not started:
        prompts = ("prompts", count(state.prompts), "")
        facts = [prompts, ("new tokens each", f"up to {count(state.config.max_new_tokens)}", ""), facts[2]]
    if state.failed:
        facts.append(("failed", some(state.failed, "prompt"), "warn"))
    return facts
