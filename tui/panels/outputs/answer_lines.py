"""An answer as a row of a list and as a whole page, with the matches of a search marked. Pure."""

from typing import NamedTuple

from rankdeck.runner.protocol import OutputRecord
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.bars import Column, row
from rankdeck.tui.panels.outputs.finding import Finds, beginning, marked, marked_lines, spans
from rankdeck.tui.settings.hint_keys import AS_THEY_COME, Keys, key_of
from rankdeck.tui.words.styles import rank_style
from rankdeck.tui.words.text import NOTHING, Line, count, cut, flow, some, visible

COLUMNS = (
    Column("prompt", 8, "right", 11),
    Column("rank", 4, "right"),
    Column("tokens", 6, "right"),
    Column("finish", 6),
    Column("prompt begins", 12, "left", 60),
    Column("answer begins", 14, "left", 400),
)
SHOWN_CHARACTERS = 10_000
"""A text longer than this is cut on screen; the pager and outputs.jsonl have all of it."""

GUTTER = 9
_FINISH_STYLES = {"stop": "", "length": "dim", "error": "warn"}


def batch_seconds(state: RunState, record: OutputRecord) -> float | None:
    """How long the batch of an answer took, in seconds; None if that is not known.

    It is not known while the batch is in hand, for a batch so old that the timeline has merged it with others, and
    for a stint of a continuous rank, whose rows come and go.
    """
    lanes = state.timeline.lanes
    if record.rank is None or record.batch is None or not 0 <= record.rank < len(lanes):
        return None
    for span in reversed(lanes[record.rank].spans):
        if span.batch == record.batch and span.kind == "batch" and span.joined == 1:
            return span.seconds
    return None


def answer_row(
    record: OutputRecord, sizes: tuple[int, ...], gap: int, *, here: bool = False, finds: Finds = None
) -> Line:
    """One answer as a row of the list, marked if the cursor is here."""
    failed = record.finish_reason == "error"
    cells: tuple[Line, ...] = (
        ((f"{'▸ ' if here else ''}#{record.index}", "strong" if here else "dim"),),
        ((NOTHING if record.rank is None else str(record.rank), rank_style(record.rank)),),
        ((count(record.output_tokens), ""),),
        ((record.finish_reason, _FINISH_STYLES[record.finish_reason]),),
        _begins(record.prompt, sizes[4], "dim", finds),
        _begins((record.error or "") if failed else record.text, sizes[5], "warn" if failed else "", finds),
    )
    return row(cells, COLUMNS, sizes, gap)


def _begins(text: str, width: int, style: str, finds: Finds) -> Line:
    shown = cut(visible(beginning(text.strip(), finds, width)), width)
    return marked(shown, style, spans(shown, finds))


class Page(NamedTuple):
    """A whole answer as lines, and the line on which each match begins."""

    lines: list[Line]
    found: list[int]


def answer_page(
    record: OutputRecord,
    width: int,
    *,
    finds: Finds = None,
    here: int | None = None,
    seconds: float | None = None,
    airy: bool = True,
    keys: Keys = AS_THEY_COME,
    paged: bool = True,
) -> Page:
    """The whole of an answer: its figures, the prompt, the text. `here` is the number of the current match.

    `paged` says whether there is a pager for a text that is too long.
    """
    space: list[Line] = [()] if airy else []
    lines = flow(_facts(record, seconds), width)
    if len(lines) > 1:
        lines = flow(_facts(record, seconds, short=True), width, 2)
    begins: list[int] = []
    sections = [("prompt", record.prompt, "dim")]
    if record.error is not None:
        sections.append(("error", record.error, "warn"))
    if record.error is None or record.text:
        sections.append(("answer", record.text.strip(), ""))
    for name, text, style in sections:
        shown = visible(text[:SHOWN_CHARACTERS], keep_newlines=True)
        found = spans(shown, finds)
        more, where = marked_lines(
            shown, max(10, width - GUTTER), style, found, None if here is None else here - len(begins)
        )
        if not text:
            more = [(("(empty)", "dim"),)]
        if len(text) > SHOWN_CHARACTERS:
            left = some(len(text) - SHOWN_CHARACTERS, "more character")
            pager = key_of("answer.pager", keys)
            where_else = f"; {pager} opens the pager, and outputs.jsonl has all of it" if paged else " in outputs.jsonl"
            more.append(((f"… and {left}{where_else}", "key"),))
        lines.extend(space)
        begins.extend(len(lines) + line for line in where)
        lines.extend(((f"{name if number == 0 else '':<{GUTTER}}", "dim"), *line) for number, line in enumerate(more))
    return Page(lines, begins)


def _facts(record: OutputRecord, seconds: float | None, *, short: bool = False) -> list[Line]:
    facts: list[Line] = [((f"#{record.index}", "strong"),)]
    if record.id != str(record.index):
        facts.append((("id ", "dim"), (cut(visible(record.id), 24), "")))
    if record.rank is not None:
        facts.append((("rank ", "dim"), (str(record.rank), rank_style(record.rank))))
    if record.batch is not None:
        took = f" took {seconds:.1f} s" if seconds is not None else ""
        facts.append((("batch ", "dim"), (f"#{record.batch}{took}", "")))
    if short:
        facts.append(((f"{count(record.prompt_tokens)} prompt + {some(record.output_tokens, 'output token')}", ""),))
    else:
        facts.append(((some(record.prompt_tokens, "prompt token"), ""),))
        facts.append(((some(record.output_tokens, "output token"), ""),))
    facts.append((("finish ", "dim"), (record.finish_reason, _FINISH_STYLES[record.finish_reason])))
    return facts


def answer_text(record: OutputRecord) -> str:
    """A whole answer with its prompt and figures, control characters made visible, for a pager or a text file."""
    figures = "   ".join("".join(text for text, _ in fact) for fact in _facts(record, None))
    parts = [figures, "prompt", record.prompt]
    if record.error is not None:
        parts.extend(("error", record.error))
    if record.error is None or record.text:
        parts.extend(("answer", record.text.strip()))
    named = [
        f"{name}\n{visible(text, keep_newlines=True)}" for name, text in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return "\n\n".join([parts[0], *named]) + "\n"
