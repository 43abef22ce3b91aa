"""What the report of a sweep says: the settings and their walls, the knees, scaling, what each setting cost. Pure.

The figures are those of run.json; the columns and how they read are panels.sweep.figures', the sentences words.sweep's.
"""

from collections.abc import Sequence

from rankdeck.runner.protocol.sweep_plan import TrialOutcome
from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.verdict import SweepSummary
from rankdeck.tui.panels.sweep.figures import COST, FIGURES, RATE, SPEED, Figure, known, marks, rate_value, why_missing
from rankdeck.tui.report import document
from rankdeck.tui.report.document import Block, Chart, Fact, Item, Prose, Section, Table, words
from rankdeck.tui.report.document import Column as Col
from rankdeck.tui.report.plot import Axis, Line, Plot, Point, Wall, spread
from rankdeck.tui.report.scaling import scaling_blocks
from rankdeck.tui.report.source import ReportSource
from rankdeck.tui.words.sweep import best_sentence, rate_places, short_setting, standing, tied_words
from rankdeck.tui.words.text import some


def sweep_headline(source: ReportSource) -> list[Fact]:
    """The best setting and how much was measured; nothing for a run that is no sweep."""
    sweep = source.sweep
    if sweep is None:
        return []
    facts = []
    if sweep.best is not None:
        rate = document.figure(rate_value(sweep.best, rate_places(sweep.cells)))
        facts = [
            Fact(f"at the best setting, {source.run.config.length_mode}", rate, "tokens/s"),
            Fact("best setting", words(short_setting(sweep.best), note=tied_words(sweep.verdict))),
        ]
        if sweep.chosen is not None and sweep.chosen.setting != sweep.best.setting:
            facts.append(Fact("chosen setting", words(short_setting(sweep.chosen))))
    measured = Item(sweep.measured, f"{sweep.measured:,}", f"of {sweep.trials:,}")
    return [*facts, Fact("trials measured", measured)]


def sweep_sections(source: ReportSource) -> list[Section]:
    """All that is said of the sweep."""
    sweep = source.sweep
    assert sweep is not None
    state = source.state
    blocks: list[Block] = [_at_a_glance(sweep)]
    if sweep.best is not None:
        blocks += [Prose([f"Best: {best_sentence(sweep)}."]), Chart(rates_plot(sweep))]
    if sweep.knees:
        columns = [Col("active ranks"), Col("knee at batch size"), Col("what was found", number=False)]
        rows = [
            [
                document.whole(knee.active_ranks),
                document.whole(knee.batch_size) if knee.ended else document.NOT_THERE,
                words(knee.sentence),
            ]
            for knee in sweep.knees
        ]
        blocks.append(Table(title="Where a larger batch stops to pay", columns=columns, rows=rows))
    if state is not None and state.sweep is not None and state.sweep.settled is not None:
        blocks.append(Prose([f"The sweep {standing(state, state.sweep)}."]))
    sections = [Section("sweep", "Tokens/s over batch size and ranks", blocks)]
    if sweep.scaling or sweep.best_scaling:
        sections.append(Section("scaling", "Scaling", scaling_blocks(sweep)))
    return [*sections, Section("cost", "Every setting in detail", _details(sweep))]


_LOOKS: dict[TrialOutcome | None, document.Emphasis] = {"out_of_memory": "wall", "skipped": "beyond"}


def _rates(sweep: SweepSummary) -> dict[tuple[int, int], Item]:
    """Each setting's tokens/s with their noise, the best marked; where there are none, the reason in a word or two."""
    places, marked = rate_places(sweep.cells), marks(sweep)
    items = {}
    for cell in sweep.cells:
        missing = why_missing(cell, sweep.cells)
        if missing is not None:
            items[cell.setting] = Item(None, missing.words, look=_LOOKS.get(missing.outcome, "dim"))
        else:
            look: document.Emphasis = "best" if marked.get(cell.setting) == "best" else ""
            items[cell.setting] = document.figure(rate_value(cell, places), look)
    return items


def _at_a_glance(sweep: SweepSummary) -> Table:
    sizes = sorted({cell.batch_size for cell in sweep.cells})
    rates = _rates(sweep)
    walls = any(cell.outcome == "out_of_memory" for cell in sweep.cells)
    note = "Mean over the trials of a setting, ± the half-width of its 95 % interval. The best is bold, with a star."
    if walls:
        note += " Out of memory is a wall: larger batches of as many ranks were skipped."
    rows = sorted(_ranks(sweep.cells))
    return Table(
        title="Output tokens/s for every setting",
        columns=[Col("batch size"), *(Col(some(ranks, "rank")) for ranks in rows)],
        rows=[[document.whole(size), *(rates.get((ranks, size), Item(None, "")) for ranks in rows)] for size in sizes],
        note=note,
    )


def rates_plot(sweep: SweepSummary) -> Plot:
    """tokens/s over batch size, a line per number of ranks, out of memory as a wall."""
    best = sweep.best
    measured = [cell for cell in sweep.cells if cell.tokens_per_second is not None]
    rows = spread(sorted(_ranks(measured)), keep=best.active_ranks if best is not None else None)
    lines = [
        Line(
            name=some(ranks, "rank"),
            points=[
                Point(cell.batch_size, cell.tokens_per_second.mean, cell.tokens_per_second.half_width)
                for cell in measured
                if cell.active_ranks == ranks and cell.tokens_per_second is not None
            ],
        )
        for ranks in rows
    ]
    walls = _walls(sweep.cells, lines)
    shown = sorted({cell.batch_size for cell in sweep.cells if cell.outcome in ("measured", "out_of_memory")})
    tied = f", {words_of_tie}" if (words_of_tie := tied_words(sweep.verdict)) else ""
    said = f" The best is {short_setting(best)}{tied}." if best is not None else ""
    fewer = " Not every number of ranks has a line; the table has all." if len(rows) < len(_ranks(measured)) else ""
    return Plot(
        key="rates",
        title="Output tokens/s over batch size",
        description="A line per number of active ranks, with 95 % intervals."
        + said
        + "".join(f" {short_setting(cell)}: out of memory." for cell in sweep.cells if cell.outcome == "out_of_memory")
        + fewer,
        x=Axis("batch size, prompts per batch and rank (logarithmic)", scale="log2", values=shown),
        y=Axis("output tokens/s"),
        lines=lines,
        walls=walls,
    )


def _walls(cells: list[Cell], lines: list[Line]) -> list[Wall]:
    """A wall across the chart where all lines end at one size, else a piece of wall before each line that ends."""
    ends = {line.name: line.points[-1].y for line in lines}
    first: dict[str, int] = {}
    for cell in cells:
        if cell.outcome == "out_of_memory" and (name := some(cell.active_ranks, "rank")) in ends:
            first.setdefault(name, cell.batch_size)
    found: dict[int, list[str]] = {}
    for name, size in first.items():
        found.setdefault(size, []).append(name)
    walls = []
    for size, names in sorted(found.items()):
        if len(names) == len(ends):
            walls.append(Wall(size, "out of memory"))
        else:
            walls += [Wall(size, "out of memory", ends[name]) for name in names]
    return walls


def _ranks(cells: list[Cell]) -> set[int]:
    return {cell.active_ranks for cell in cells}


def _details(sweep: SweepSummary) -> list[Block]:
    cells = [cell for cell in sweep.cells if cell.tokens_per_second is not None]
    said = [
        f"{short_setting(cell)}: {missing.sentence}"
        for cell in sweep.cells
        if (missing := why_missing(cell, sweep.cells)) is not None and missing.outcome in ("out_of_memory", "failed")
    ]
    if not cells:
        return [Prose(["No setting was measured.", *said])]
    blocks: list[Block] = [
        _detail("Throughput", sweep, cells, SPEED),
        _detail("How full the devices were", sweep, cells, COST),
    ]
    there = known(FIGURES, cells)
    gone = [figure.heading.name for figure in FIGURES if figure not in there]
    if gone:
        said.append(f"Not available on this machine: {', '.join(gone)}.")
    return [*blocks, Prose(said)] if said else blocks


def _detail(title: str, sweep: SweepSummary, cells: Sequence[Cell], figures: Sequence[Figure]) -> Table:
    """A row for each setting: tokens/s, and those of the figures that are known."""
    there = known(figures, cells)
    places, rates = rate_places(sweep.cells), _rates(sweep)
    headings = [RATE, *(figure.heading for figure in there)]
    return Table(
        title=title,
        columns=[Col("active ranks"), Col("batch size"), *(Col(heading.name, heading.unit) for heading in headings)],
        rows=[
            [
                document.whole(cell.active_ranks),
                document.whole(cell.batch_size),
                rates[cell.setting],
                *(document.figure(figure.value(cell, places)) for figure in there),
            ]
            for cell in cells
        ],
        strong=[place for place, cell in enumerate(cells) if rates[cell.setting].look == "best"],
    )
