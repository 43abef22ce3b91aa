"""The report's section on scaling: speedup and efficiency, at each batch size and for the best settings. Pure."""

from rankdeck.runner.sweep.scaling import Scaling
from rankdeck.runner.sweep.verdict import SweepSummary
from rankdeck.tui.panels.sweep.figures import EACH_THE_SAME, SCALING, same_and_best_scaling, scaling_values
from rankdeck.tui.report import document
from rankdeck.tui.report.document import Block, Chart, Table
from rankdeck.tui.report.document import Column as Col
from rankdeck.tui.report.plot import MOST_LINES, Axis, Line, Plot, Point, spread
from rankdeck.tui.words.sweep import rate_places

AT_ONE_SIZE = (
    "At one batch size, over the fewest ranks. ± is the half-width of the 95 % interval of the ratio (delta method)."
)
OF_EACH_BEST = (
    "The best setting with each number of ranks over the best with the fewest, the batch size of each as it is best. "
    "The intervals do not know that each is the highest of its row."
)


def scaling_blocks(sweep: SweepSummary) -> list[Block]:
    """A chart of speedup, and its figures: for each batch size, and for the best setting with each number of ranks."""
    blocks: list[Block] = [Chart(scaling_plot(sweep))]
    same, each = same_and_best_scaling(sweep)
    if sweep.scaling:
        note = AT_ONE_SIZE
        if same and same == sweep.best_scaling:
            note += f" {EACH_THE_SAME.capitalize()} as at batch size {same[0].batch_size:,}."
        blocks.append(_table("What more ranks bring", sweep, sweep.scaling, note))
    if each:
        blocks.append(_table("What more ranks bring at the best batch size of each", sweep, each, OF_EACH_BEST))
    return blocks


def scaling_plot(sweep: SweepSummary) -> Plot:
    """Speedup over ranks with its noise: a line per batch size, and one for the best of each where that differs."""
    chosen = sweep.chosen.batch_size if sweep.chosen is not None else None
    sizes = sorted({row.batch_size for row in sweep.scaling})
    shown = spread(sizes, MOST_LINES - 1, keep=chosen)
    of_size = {size: [row for row in sweep.scaling if row.batch_size == size] for size in shown}
    best_of_all = next((size for size, rows in of_size.items() if rows == sweep.best_scaling), None)
    each = sweep.best_scaling if best_of_all is None else []
    named = [(f"batch {size:,}", rows) for size, rows in of_size.items()]
    lines = [
        Line(name=name, points=[Point(row.active_ranks, row.speedup, row.speedup_half_width) for row in rows])
        for name, rows in (*named, ("best of each", each))
        if rows
    ]
    kinds = [
        kind for kind, rows in (("per batch size", named), ("for the best with each number of ranks", each)) if rows
    ]
    ranks = sorted({row.active_ranks for row in (*sweep.scaling, *sweep.best_scaling)})
    words = [
        f"A line {', and one '.join(kinds)}, with 95 % intervals, against the ideal line on which "
        f"{ranks[-1]} ranks are {ranks[-1]} times as fast."
    ]
    if best_of_all is not None:
        words.append(f"That of the best with each number of ranks is the same as of batch size {best_of_all:,}.")
    if len(shown) < len(sizes):
        words.append("Not every batch size has a line; the table has all.")
    # The ideal line ends where the axis does, which fits the measured lines.
    top = min(ranks[-1], max(point.y + (point.half_width or 0.0) for line in lines for point in line.points))
    ideal = Line(name="ideal", points=[Point(ranks[0], ranks[0]), Point(top, top)], reference=True)
    return Plot(
        key="scaling",
        title="Speedup over active ranks",
        description=" ".join(words),
        x=Axis("active ranks", values=ranks, fitted=True),
        y=Axis("speedup", "times one rank", fitted=True),
        lines=[ideal, *lines],
    )


def _table(title: str, sweep: SweepSummary, rows: list[Scaling], note: str) -> Table:
    places = rate_places(sweep.cells)
    return Table(
        title=title,
        columns=[Col("active ranks"), Col("batch size"), *(Col(heading.name, heading.unit) for heading in SCALING)],
        rows=[
            [
                document.whole(row.active_ranks),
                document.whole(row.batch_size),
                *map(document.figure, scaling_values(row, places)),
            ]
            for row in rows
        ],
        note=note,
    )
