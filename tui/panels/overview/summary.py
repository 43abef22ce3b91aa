"""How a run ended, or why it can no longer be watched. Pure."""

from pathlib import PurePath

from rankdeck.runner.state import RunState
from rankdeck.tui.words.status import STATUS
from rankdeck.tui.words.sweep import how_ended, only_measures
from rankdeck.tui.words.text import Line, count, cut_middle, flow, percent, rate, some, visible, wrap

MOST_CAUSE_LINES = 6


def summary_title(state: RunState, lost: str | None) -> str:
    return "The run can no longer be watched" if state.ended is None and lost else "Summary"


def summary_lines(state: RunState, lost: str | None, width: int) -> list[Line]:
    """Empty while the run goes on and is being watched."""
    if state.ended is None:
        return _message("✗ ", lost, width) if lost else []
    ended, summary = state.ended, state.ended.summary
    word = how_ended(state)
    mark, style = STATUS[word]
    lines: list[Line] = []
    if ended.cause:
        lines.extend(_message(f"{mark} {word}  ", ended.cause, width, style))
        first: list[Line] = []
    else:
        first = [((f"{mark} {word}", style),)]
    facts: list[Line] = [
        *first,
        _done(state),
        ((count(summary.output_tokens), "strong"), (" output tokens", "")),
        ((rate(summary.tokens_per_second), "key"), (" tok/s", "")),
        ((f"{summary.seconds:,.1f}", "strong"), (" s", "")),
        (("padding waste ", ""), (percent(summary.padding_waste), "strong")),
        ((visible(summary.length), "dim"),),
    ]
    if summary.failed:
        facts.insert(len(first) + 1, ((some(summary.failed, "prompt") + " failed", "warn"),))
    lines.extend(flow(facts, width))
    if state.gather is not None:
        lines.append(gathered_line(state))
    lines.extend(_paths(state, width))
    return lines


def _done(state: RunState) -> Line:
    """What was done: prompts, or trials for a sweep that keeps no answers."""
    assert state.ended is not None
    summary = state.ended.summary
    if state.sweep is not None and only_measures(state):
        return ((f"{count(len(state.sweep.records))} / {count(len(state.sweep.trials))}", "strong"), (" trials", ""))
    return ((f"{count(summary.completed)} / {count(summary.prompts)}", "strong"), (" prompts", ""))


def _message(start: str, text: str, width: int, style: str = "bad") -> list[Line]:
    wrapped = wrap(visible(text, keep_newlines=True), max(10, width - len(start)))
    shown = wrapped[:MOST_CAUSE_LINES]
    if len(wrapped) > len(shown):
        shown[-1] += " …"
    return [((start if number == 0 else " " * len(start), style), (part, style)) for number, part in enumerate(shown)]


def gathered_line(state: RunState) -> Line:
    """Whether `gather_object` brought the same records as the socket, once that was checked."""
    assert state.gather is not None
    differing = len(state.gather.differing)
    start = f"gather_object brought {some(state.gather.records, 'record')}: "
    if not differing:
        return ((start + "all as they came over the socket", "dim"),)
    return ((start, ""), (f"{differing:,} differ from what came over the socket", "bad"))


FILES_TROUBLE = 3
"""The exit status of a run that had trouble with its files, or failed."""


def outputs_path(state: RunState) -> str:
    """Where the outputs of an ended run are: the copy that was asked for, if it is sure that it was made."""
    output = state.config.output if state.config is not None else None
    if output and state.ended is not None and state.ended.exit_status != FILES_TROUBLE:
        return output
    return str(PurePath(state.directory) / "outputs.jsonl")


def _paths(state: RunState, width: int) -> list[Line]:
    if not state.directory:
        return []
    assert state.ended is not None
    directory = PurePath(state.directory)
    shown = [("outputs", outputs_path(state))]
    if state.sweep is not None and only_measures(state):
        shown = [("figures", str(directory / "run.json"))]
    if state.ended.status == "failed":
        shown.append(("log", str(directory / "runner.log")))
    return [((f"{name:<9}", "dim"), (cut_middle(visible(path), width - 9), "")) for name, path in shown]
