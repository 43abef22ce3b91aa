"""The report's section on throughput: the curve over time, what happened, and what each setting of the knobs brought.

Pure; everything comes from the state that the journal adds up to.
"""

import msgspec

from rankdeck.runner.state.settings import all_settings
from rankdeck.tui.report import document
from rankdeck.tui.report.document import Block, Chart, Prose, Section, Table, words
from rankdeck.tui.report.document import Column as Col
from rankdeck.tui.report.plot import Axis, Line, Mark, Plot, Point
from rankdeck.tui.report.source import ReportSource
from rankdeck.tui.words.sweep import times
from rankdeck.tui.words.text import gib, percent, some

MOST_UNMEASURED = 6


def over_time(source: ReportSource, also: ReportSource | None) -> Section | None:
    """None without a journal. `also` is a second run, whose curve is drawn in the same chart."""
    state = source.state
    if state is None or not state.ranks:
        return None
    blocks: list[Block] = []
    if len(state.history) >= 2:
        blocks.append(Chart(throughput_plot(source, also)))
    else:
        blocks.append(Prose(["The run was too short for a chart over time: it takes a point a second."]))
    blocks += _periods(source)
    if state.marks:
        blocks.append(
            Table(
                title="What happened on the way",
                columns=[Col("after", "s"), Col("kind", number=False), Col("what", number=False)],
                rows=[
                    [document.decimals(mark.elapsed, 1), words(mark.kind), words(mark.text)]
                    for mark in state.marks
                    if mark.kind != "trial"
                ],
            )
        )
    return Section("time", "Throughput", blocks)


def throughput_plot(source: ReportSource, also: ReportSource | None = None) -> Plot:
    """Tokens/s over time, with a mark where a knob was turned; with `also` the curves of both runs, without marks."""
    curves = [
        (one.run.name, [(point.elapsed, point.tokens_per_second) for point in one.state.history])
        for one in (source, also)
        if one is not None and one.state is not None
    ]
    longest = max((x for _, points in curves for x, _ in points), default=0.0)
    scale, unit = (1, "s") if longest <= 300 else (60, "min") if longest <= 3 * 3600 else (3600, "h")
    lines = [
        Line(name=name, points=[Point(x / scale, y) for x, y in points], markers=False, filled=len(curves) == 1)
        for name, points in curves
    ]
    marks = []
    said = ""
    if len(curves) == 1 and source.state is not None:
        marks = [Mark(mark.elapsed / scale, mark.text) for mark in source.state.marks if mark.kind != "trial"]
        lines = [msgspec.structs.replace(line, name="5 s mean") for line in lines]
        said = f" {some(len(marks), 'mark')} for turned knobs and the like." if marks else ""
    if len(curves) == 1 and source.summary is not None and source.summary.tokens_per_second > 0:
        mean = source.summary.tokens_per_second
        end = lines[0].points[-1].x if lines[0].points else 1.0
        lines.append(Line(name=f"mean {mean:,.0f}", points=[Point(0, mean), Point(end, mean)], reference=True))
    peaks = "; ".join(
        f"{name}: highest {max((y for _, y in points), default=0.0):,.0f} tokens/s, over {points[-1][0]:,.0f} s"
        for name, points in curves
        if points
    )
    return Plot(
        key="throughput",
        title="Throughput over time",
        description=f"Output tokens per second, mean of the last five seconds. {peaks}.{said}",
        x=Axis("time since the first batch", unit),
        y=Axis("output tokens/s"),
        lines=lines,
        marks=marks,
    )


def _periods(source: ReportSource) -> list[Block]:
    assert source.state is not None
    periods = source.state.periods
    measured = all_settings(source.state)
    rows = [
        [
            document.whole(row.batch_size),
            document.whole(row.active_ranks),
            document.whole(row.batches),
            document.decimals(row.rows, 1),
            document.decimals(row.tokens_per_second, 1),
            document.reading(row.half_width, lambda width: f"{width:,.1f}"),
            document.decimals(row.per_rank, 1),
            document.reading(row.speedup, times),
            document.reading(row.efficiency, percent),
            document.reading(row.load.busy.value, lambda busy: f"{busy:.0f}"),
            document.reading(row.load.dram.value, lambda dram: f"{dram:.0f}"),
            document.reading(row.mbu, percent),
            document.reading(row.tokens_per_joule, lambda figure: f"{figure:.2f}"),
            document.reading(row.peak_memory_bytes, gib),
            document.reading(row.reserved_memory_bytes, gib),
        ]
        for row in measured
    ]
    tried = {(one.batch_size, one.active_ranks) for one in periods} - {row.setting for row in measured}
    unmeasured = [f"{some(ranks, 'rank')} x {size}" for size, ranks in sorted(tried)]
    note = (
        "Measured over whole batches, while there was work for all: without the ragged end of the run, and on a GPU "
        "without a rank's first batch, or its first of so many rows, unless it has no other: such a figure is compared "
        "with none."
    )
    if unmeasured:
        more = f" and {len(unmeasured) - MOST_UNMEASURED:,} more" if len(unmeasured) > MOST_UNMEASURED else ""
        listed = ", ".join(unmeasured[:MOST_UNMEASURED]) + more
        note += f" Too short to be measured, as not every active rank ended a whole batch: {listed}."
    if not rows:
        return [Prose([note])] if unmeasured else []
    columns = [
        Col("batch size"), Col("active ranks"), Col("whole batches"), Col("rows", "mean"), Col("tokens/s"),
        Col("±", "95 %, tokens/s"), Col("tokens/s", "per rank"), Col("speedup", "over 1 rank"),
        Col("scaling efficiency"), Col("busy", "%"), Col("DRAM", "%"), Col("MBU"), Col("tokens", "per joule"),
        Col("peak memory", "GiB per rank"), Col("reserved", "GiB per rank"),
    ]  # fmt: skip
    table = Table(title="What each setting of the knobs brought", columns=columns, rows=rows, note=note)
    return [document.without_empty(table)]
