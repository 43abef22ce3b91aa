"""The progress panel: how far the run has come and when it ends; before that, how far loading has come. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from rankdeck.runner.protocol.sweep_plan import SweepState
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.cells import best, cells
from rankdeck.runner.sweep.verdict import tied_with_best
from rankdeck.tui.panels.bars import bar_with_begun
from rankdeck.tui.panels.overview.advice import batch_size_reason
from rankdeck.tui.panels.overview.header import phase_words
from rankdeck.tui.panels.overview.notice import relaunching
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
    Line,
    between,
    clock,
    count,
    cut,
    fit,
    line_width,
    percent,
    size,
    some,
    whole_percent,
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

    def words(self) -> Line:
        """Label and value side by side, in a short form."""
        return (((self.short_label or self.label) + " ", "dim"), (self.short_value or self.value, self.style))


def progress_lines(state: RunState, width: int, height: int) -> list[Line]:
    """In one line, a small bar after the figures; from two on, a bar as wide as the panel, then why that batch size.

    The bar has what is done, as the figures say, and fainter the share of batches in flight, by their tokens.
    """
    if state.config is None:
        waiting: Line = (("waiting for the run to say what it is", "dim"),)
        return [waiting]
    loading = state.first_batch_at is None and state.ended is None
    head, share = _loading(state) if loading else _done(state)
    begun = share if loading or state.ended is not None else state.progress
    # Failures come first, so that there is always room for them.
    found = [] if loading else sorted(progress_facts(state), key=lambda fact: fact.label != "failed")
    facts = [fact.words() for fact in found]
    figure: Line = ((whole_percent(share), "strong"),)
    if height == 1:
        room = max(6, min(20, width // 5))
        line = _flowing([*head, *facts], width - room - 6)
        return [between(line, (*bar_with_begun(share, begun, room), (" ", ""), *fit(figure, 4, "right")), width)]
    lines = [between(_flowing([*head, *facts], width - 5), figure, width), bar_with_begun(share, begun, width)]
    reason = "" if only_measures(state) or loading else batch_size_reason(state)
    return [*lines, *([((cut(reason, width), "dim"),)] if reason and height >= 3 else [])]


def _flowing(facts: Sequence[Line], width: int) -> Line:
    """As many of the first facts as fit in one line."""
    line: Line = ()
    for fact in facts:
        longer = (*line, ("   " if line else "", ""), *fact)
        if line and line_width(longer) > width:
            break
        line = longer
    return line


def facts_lines(state: RunState, width: int) -> list[Line]:
    """The facts one below the other, for a panel that has no settings to show yet."""
    return [fact.line(width) for fact in progress_facts(state)] if state.config is not None else []


def _done(state: RunState) -> tuple[list[Line], float]:
    """What is done, and its share of the whole."""
    if only_measures(state) and state.sweep is not None:
        return [_trials(state, state.sweep)], state.done_share
    share = state.done_share if state.ended is None else (state.done / state.prompts if state.prompts else 1.0)
    in_hand = in_flight(state)
    more: list[Line] = [((f"+{count(in_hand)} in flight", "dim"),)] if in_hand else []
    return [done_words(state), *more], share


def done_words(state: RunState) -> Line:
    """`64 / 100 prompts`"""
    return ((count(state.done), "strong"), (f" / {count(state.prompts)} prompts", ""))


def in_flight(state: RunState) -> int:
    """Prompts in hand, whose tokens count towards the share done; 0 once the run has ended and during a sweep."""
    return 0 if state.ended is not None or state.sweeping else sum(rank.rows for rank in state.ranks)


def _trials(state: RunState, sweep: SweepState) -> Line:
    """How many trials are over, while trials are the work."""
    if state.ended is None and state.sweeping:
        return ((trial_of(sweep), "strong"),)
    return ((count(len(sweep.records)), "strong"), (f" / {some(len(sweep.trials), 'trial')}", ""))


def _loading(state: RunState) -> tuple[list[Line], float]:
    """What the run is waiting for, and how far that is."""
    words: Line = ((phase_words(state), "strong"),)
    if state.phase == "model" and state.model is not None:
        model = state.model
        if model.done is not None and model.total:
            return [words, ((f"{size(model.done)} / {size(model.total)}", "dim"),)], model.done / model.total
        return [words, *([((size(model.done), "strong"),)] if model.done is not None else [])], 0.0
    if state.ranks:
        ready = sum(rank.ready is not None for rank in state.ranks)
        return [words, ((f"{ready} / {len(state.ranks)} ready", "strong"),)], ready / len(state.ranks)
    return [words, (("the ranks are launched once the model is there", "dim"),)], 0.0


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
    waste, hits = percent(state.padding_waste), prefix_hits(state)
    facts += [
        Fact("output tokens", count(state.output_tokens + state.in_flight_tokens), "", "tokens", "", "tok"),
        _batch_size(state),
        *([Fact("padding waste", waste, "", "waste")] if hits is None else [Fact("prefix hits", hits, "", "hits")]),
    ]
    if state.failed:
        facts.append(Fact("failed", some(state.failed, "prompt"), "warn"))
    return facts


def prefix_hits(state: RunState) -> str | None:
    """The share of the prompts' tokens that was in the ranks' caches already, a mean over them; None if none tells."""
    known = [rank.prefix_hits for rank in state.ranks if rank.prefix_hits is not None]
    return percent(sum(known) / len(known)) if known else None


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


def _batch_size(state: RunState) -> Fact:
    assert state.config is not None
    if not state.periods:
        size_asked = state.config.batch_size
        return Fact("batch size", "auto" if size_asked is None else count(size_asked), "", "batch")
    now, rows = count(state.batch_size), _rows_that_run(state)
    if state.auto:
        return Fact("batch size", f"{now} (auto: trying)", "key", "batch", f"{now} trying")
    facts = [*(["auto"] if batch_size_reason(state) else []), *([f"batches of {count(rows)}"] if rows else [])]
    runs = f"{count(rows)}/{now}" if rows else ""
    return Fact("batch size", f"{now} ({', '.join(facts)})" if facts else now, "", "batch", runs)


def _rows_that_run(state: RunState) -> int | None:
    """Rows of the newest batches in hand, if that is not the batch size: prompts run out, or it was just turned."""
    if state.ended is not None or state.sweeping:
        return None
    at_work = [rank for rank in state.ranks[: state.active_ranks] if rank.batch is not None]
    if state.continuous:
        # Rows come and go by themselves; fewer than the batch size is news once no prompt is left to fill them.
        rows = 0 if state.pending else max((rank.rows_at_once or 0 for rank in at_work), default=0)
        return rows if 0 < rows < state.batch_size else None
    newest = max(at_work, key=lambda rank: rank.batch or 0, default=None)
    if newest is None:
        return None
    # Batches of one round differ by a row at most: the larger one is shown, so that the figure does not flicker.
    rows = max(rank.batch_rows for rank in at_work if abs(rank.batch_rows - newest.batch_rows) <= 1)
    size = min(state.batch_size, newest.cap) if newest.cap is not None else state.batch_size
    return rows if rows and rows not in (size, state.batch_size) else None
