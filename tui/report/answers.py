"""The report's section on answers: how they ended, how long they are, which prompts failed. Pure."""

from rankdeck.tui.report import document
from rankdeck.tui.report.document import Block, Chart, Item, Section, Table, words
from rankdeck.tui.report.document import Column as Col
from rankdeck.tui.report.plot import Axis, Bar, Plot
from rankdeck.tui.report.source import Answers, ReportSource

REASONS = {
    "stop": "the model ended the answer",
    "length": "cut off at the most new tokens",
    "error": "no answer",
}
MOST_BARS = 25


def section(source: ReportSource) -> Section | None:
    """None where there are no answers, or none that could be read."""
    found = source.answers
    if found is None or found.count == 0:
        return None
    blocks: list[Block] = [_reasons(found)]
    if found.lengths:
        blocks += [Chart(_plot(found)), _lengths(found)]
    if found.errors:
        blocks.append(_errors(found))
    return Section("answers", "Answers", blocks)


def _reasons(found: Answers) -> Table:
    return Table(
        title="How they ended",
        columns=[Col("finish reason", number=False), Col("means", number=False), Col("prompts"), Col("share")],
        rows=[
            [
                words(reason),
                words(meaning),
                document.whole(found.reasons.get(reason, 0)),
                document.share(found.reasons.get(reason, 0) / found.count, 1),
            ]
            for reason, meaning in REASONS.items()
        ],
    )


def quantile(lengths: dict[int, int], part: float) -> int:
    """The length that a share `part` of the answers does not exceed."""
    left = part * sum(lengths.values())
    for length in sorted(lengths):
        left -= lengths[length]
        if left <= 1e-9:
            return length
    return max(lengths)


def _lengths(found: Answers) -> Table:
    lengths = found.lengths
    mean = sum(length * count for length, count in lengths.items()) / sum(lengths.values())
    figures: list[tuple[str, Item]] = [
        ("shortest", document.whole(min(lengths))),
        ("median", document.whole(quantile(lengths, 0.5))),
        ("mean", document.decimals(mean, 1)),
        ("90 % have at most", document.whole(quantile(lengths, 0.9))),
        ("longest", document.whole(max(lengths))),
    ]
    return Table(
        title="Output tokens per answer",
        columns=[Col("", number=False), *(Col(name) for name, _ in figures)],
        rows=[[words("output tokens"), *(item for _, item in figures)]],
    )


def _plot(found: Answers) -> Plot:
    longest = max(max(found.lengths), 1)
    width = next(
        step
        for step in (mantissa * 10**exponent for exponent in range(20) for mantissa in (1, 2, 5))
        if longest / step <= MOST_BARS
    )
    bars: dict[int, int] = {}
    for length, count in found.lengths.items():
        # A bar counts lengths above its low edge up to and including its high edge; the first bar also counts 0.
        place = max(0, -(-length // width) - 1)
        bars[place] = bars.get(place, 0) + count
    return Plot(
        key="lengths",
        title="Length of the answers",
        description=f"How many answers have how many output tokens, in bars of {width:,}; the longest has {longest:,}.",
        x=Axis("output tokens", whole=True),
        y=Axis("answers", whole=True),
        bars=[Bar(place * width, (place + 1) * width, count) for place, count in sorted(bars.items())],
    )


def _errors(found: Answers) -> Table:
    failed = found.reasons.get("error", 0)
    return Table(
        title="Prompts that ended in an error",
        columns=[Col("index"), Col("id", number=False), Col("error", number=False)],
        rows=[[document.whole(error.index), words(error.id), words(error.error)] for error in found.errors],
        note="" if failed <= len(found.errors) else f"The first {len(found.errors)} of {failed:,}.",
    )
