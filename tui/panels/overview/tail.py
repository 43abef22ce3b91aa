"""The newest answers, or the log, where a tall terminal has room under the tables. Pure."""

from collections.abc import Sequence

from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.log.head import log_head
from rankdeck.tui.words.styles import rank_style
from rankdeck.tui.words.text import ELLIPSIS, NOTHING, Line, cut, fit, visible


def tail_title(state: RunState) -> str:
    return "Log" if shows_log(state) else "Newest answers"


def shows_log(state: RunState) -> bool:
    """Whether the log is shown: until the first answer, and again once a run has failed."""
    return state.done == 0 or (state.ended is not None and state.ended.status == "failed")


def tail_lines(state: RunState, newest: Sequence[OutputRecord], width: int, height: int) -> list[Line]:
    if shows_log(state):
        first = state.timeline.first_batch
        lines = [
            fit((*log_head(entry, first, width), (visible(entry.text), "")), width) for entry in state.log[-height:]
        ]
        return lines or [(("what the supervisor and the ranks say", "dim"),)]
    return [answer_line(record, width) for record in newest[-height:]]


def answer_line(record: OutputRecord, width: int) -> Line:
    """The start of a prompt and of its answer on one line."""
    number = f"#{record.index}"
    head: Line = ((f"{number:>6} ", "dim"), (f"{_rank(record):<3} ", rank_style(record.rank)))
    room = max(10, width - 11)
    prompt = cut(visible(record.prompt), max(10, room * 2 // 5))
    answer = visible(record.error or "error") if record.finish_reason == "error" else visible(record.text.strip())
    style = "warn" if record.finish_reason == "error" else ""
    return fit((*head, (prompt, "dim"), (" → ", "dim"), (answer or ELLIPSIS, style)), width)


def _rank(record: OutputRecord) -> str:
    return NOTHING if record.rank is None else f"r{record.rank}"
