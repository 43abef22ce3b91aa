"""What the report of a sweep says: the trial table with its walls, the knee, scaling, what each setting cost. Pure.

All figures are those of runner.sweep.verdict, as run.json holds them.
"""

from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.verdict import SweepSummary
from rankdeck.tui.report import document
from rankdeck.tui.report.document import Block, Chart, Fact, Item, Prose, Section, Table, words
from rankdeck.tui.report.document import Column as Col
from rankdeck.tui.report.plot import Axis, Line, Plot, Point, Wall, spread
from rankdeck.tui.report.scaling import scaling_blocks
from rankdeck.tui.report.source import ReportSource
from rankdeck.tui.words.sweep import standing, tied_words
from rankdeck.tui.words.text import some


def sweep_headline(source: ReportSource) -> list[Fact]:
    """The best setting and how much was measured; nothing for a run that is no sweep."""
    sweep = source.sweep
    if sweep is None:
        return []
    facts = []
    if sweep.best is not None and sweep.best.tokens_per_second is not None:
        rate = sweep.best.tokens_per_second
        facts = [
            Fact(
                f"at the best setting, {source.run.config.length_mode}",
                document.decimals(rate.mean, digits(sweep), half_width=rate.half_width),
                "tokens/s",
            ),
            Fact("best setting", words(setting(sweep.best), note=tied_words(sweep.verdict))),
        ]
        if sweep.chosen is not None and sweep.chosen.setting != sweep.best.setting:
            facts.append(Fact("chosen setting", words(setting(sweep.chosen))))
    measured = Item(sweep.measured, f"{sweep.measured:,}", f"of {sweep.trials:,}")
    return [*facts, Fact("trials measured", measured)]


def digits(sweep: SweepSummary) -> int:
    """Digits after the point of the sweep's tokens/s: the same in all of a table, and none that is noise."""
    best = sweep.best.tokens_per_second if sweep.best is not None else None
    return 0 if best is not None and best.mean >= 1000 else 1


def setting(cell: Cell) -> str:
    return f"{some(cell.active_ranks, 'rank')} x {cell.batch_size:,}"


def sweep_sections(source: ReportSource) -> list[Section]:
    """All that is said of the sweep."""
    sweep = source.sweep
    assert sweep is not None
    state = source.state
    blocks: list[Block] = [_at_a_glance(sweep)]
    if sweep.best is not None:
        if sweep.verdict is not None and sweep.verdict.sentence:
            blocks.append(Prose([f"The best, {setting(sweep.best)}: {sweep.verdict.sentence}."]))
        blocks.append(Chart(rates_plot(sweep)))
    if sweep.knees:
        blocks.append(
            Table(
                title="Where a larger batch stops to pay",
                columns=[Col("active ranks"), Col("knee at batch size"), Col("what was found", number=False)],
                rows=[
                    [document.whole(one.active_ranks), document.whole(one.batch_size), words(one.sentence)]
                    for one in sweep.knees
                ],
            )
        )
    if state is not None and state.sweep is not None and state.sweep.settled is not None:
        blocks.append(Prose([f"The sweep {standing(state, state.sweep)}."]))
    sections = [Section("sweep", "Tokens/s over batch size and ranks", blocks)]
    if sweep.scaling or sweep.best_scaling:
        sections.append(Section("scaling", "Scaling", scaling_blocks(sweep, digits(sweep))))
    return [*sections, Section("cost", "Every setting in detail", _details(sweep))]


def is_best(sweep: SweepSummary, cell: Cell) -> bool:
    best = sweep.best
    return best is not None and (best.active_ranks, best.batch_size) == (cell.active_ranks, cell.batch_size)


def outcome(cell: Cell) -> Item:
    """What stands in place of a figure."""
    said = {None: "not run", "out_of_memory": "out of memory", "skipped": "skipped", "failed": "failed"}
    looks: dict[str | None, document.Emphasis] = {"out_of_memory": "wall", "skipped": "beyond"}
    return Item(None, said.get(cell.outcome, "n/a"), look=looks.get(cell.outcome, "dim"))


def rate(sweep: SweepSummary, cell: Cell) -> Item:
    """A cell's tokens/s with its noise, the best one marked by look and (elsewhere) by a word."""
    found = cell.tokens_per_second
    if found is None:
        return outcome(cell)
    item = document.decimals(found.mean, digits(sweep), half_width=found.half_width)
    return Item(item.raw, item.text, item.note, "best") if is_best(sweep, cell) else item


def _at_a_glance(sweep: SweepSummary) -> Table:
    sizes = sorted({cell.batch_size for cell in sweep.cells})
    found = {(cell.active_ranks, cell.batch_size): cell for cell in sweep.cells}
    walls = any(cell.outcome == "out_of_memory" for cell in sweep.cells)
    note = "Mean over the trials of a setting, ± the half-width of its 95 % interval. The best is bold, with a star."
    if walls:
        note += " Out of memory is a wall: larger batches of as many ranks were skipped."
    rows = sorted(_ranks(sweep.cells))
    return Table(
        title="Output tokens/s for every setting",
        columns=[Col("batch size"), *(Col(some(ranks, "rank")) for ranks in rows)],
        rows=[[document.whole(size), *(rate(sweep, found[ranks, size]) for ranks in rows)] for size in sizes],
        note=note,
    )


def rates_plot(sweep: SweepSummary) -> Plot:
    """tokens/s over batch size, a line per number of ranks, out of memory as a wall."""
    measured = [cell for cell in sweep.cells if cell.tokens_per_second is not None]
    rows = spread(sorted({cell.active_ranks for cell in measured}), keep=_best_ranks(sweep))
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
    best = f" The best is {setting(sweep.best)}{tied}." if sweep.best is not None else ""
    fewer = " Not every number of ranks has a line; the table has all." if len(rows) < len(_ranks(measured)) else ""
    return Plot(
        key="rates",
        title="Output tokens/s over batch size",
        description="A line per number of active ranks, with 95 % intervals."
        + best
        + "".join(f" {setting(cell)}: out of memory." for cell in sweep.cells if cell.outcome == "out_of_memory")
        + fewer,
        x=Axis("batch size, prompts per batch and rank (logarithmic)", scale="log2", values=shown),
        y=Axis("output tokens/s"),
        lines=lines,
        walls=walls,
    )


def _walls(cells: list[Cell], lines: list[Line]) -> list[Wall]:
    """A wall across the chart where all lines end at it, else a piece of one before each line that does."""
    ends = {line.name: line.points[-1].y for line in lines}
    found: dict[int, list[str]] = {}
    for cell in cells:
        if cell.outcome == "out_of_memory" and (name := some(cell.active_ranks, "rank")) in ends:
            found.setdefault(cell.batch_size, []).append(name)
    walls = []
    for size, names in sorted(found.items()):
        if len(names) == len(ends):
            walls.append(Wall(size, "out of memory"))
        else:
            walls += [Wall(size, "out of memory", ends[name]) for name in names]
    return walls


def _ranks(cells: list[Cell]) -> set[int]:
    return {cell.active_ranks for cell in cells}


def _best_ranks(sweep: SweepSummary) -> int | None:
    return sweep.best.active_ranks if sweep.best is not None else None


def _details(sweep: SweepSummary) -> list[Block]:
    cells = [cell for cell in sweep.cells if cell.tokens_per_second is not None]
    strong = [place for place, cell in enumerate(cells) if is_best(sweep, cell)]
    rates, _ = document.without_empty(
        Table(
            title="Throughput",
            columns=[
                Col("active ranks"), Col("batch size"), Col("trials"), Col("output", "tokens/s"),
                Col("per rank", "tokens/s"), Col("with prompts", "tokens/s"), Col("batch", "s"),
                Col("prefill", "s"), Col("decode p50", "ms/step"), Col("decode p90", "ms/step"),
                Col("decode p99", "ms/step"),
            ],
            rows=[_rates_row(sweep, cell) for cell in cells],
            strong=strong,
        )
    )  # fmt: skip
    costs, gone = document.without_empty(
        Table(
            title="How full the devices were",
            columns=[
                Col("active ranks"), Col("batch size"), Col("padding waste"), Col("idle"),
                Col("peak memory", "GiB per rank"), Col("busy"), Col("DRAM"), Col("tensor pipe"), Col("power", "W"),
                Col("energy", "tokens/J"), Col("MBU"),
            ],
            rows=[_costs_row(cell) for cell in cells],
            strong=strong,
        )
    )  # fmt: skip
    blocks: list[Block] = [rates, costs] if cells else [Prose(["No setting was measured."])]
    reasons = [
        f"{setting(cell)}: {cell.reason}"
        for cell in sweep.cells
        if cell.reason and cell.outcome not in ("skipped", None)
    ]
    said = [f"Not available on this machine: {', '.join(gone)}."] if gone and cells else []
    if reasons or said:
        blocks.append(Prose([*reasons, *said]))
    return blocks


def _rates_row(sweep: SweepSummary, cell: Cell) -> list[Item]:
    steps = cell.step_ms or (None, None, None)
    trials = cell.tokens_per_second.count if cell.tokens_per_second is not None else 0
    return [
        document.whole(cell.active_ranks),
        document.whole(cell.batch_size),
        document.whole(trials),
        rate(sweep, cell),
        document.decimals(cell.rank_tokens_per_second, digits(sweep)),
        document.decimals(cell.total_tokens_per_second, digits(sweep)),
        document.decimals(cell.batch_seconds, 2),
        document.decimals(cell.prefill_seconds, 3),
        *(document.decimals(step, 1) for step in steps),
    ]


def _costs_row(cell: Cell) -> list[Item]:
    def percent(value: float | None) -> Item:
        return document.NOT_AVAILABLE if value is None else Item(value, f"{value:.0f} %")

    return [
        document.whole(cell.active_ranks),
        document.whole(cell.batch_size),
        document.share(cell.padding_waste, 1),
        document.share(cell.idle, 1),
        document.gibibytes(cell.peak_memory_bytes),
        percent(cell.busy_percent),
        percent(cell.dram_percent),
        percent(cell.tensor_percent),
        document.decimals(cell.power_watts, 0),
        document.decimals(cell.tokens_per_joule, 2),
        document.share(cell.mbu, 1),
    ]
