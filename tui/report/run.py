"""The report of a run as a document: headline, notices, ranks, and the order of all sections. Pure.

The figures are those of run.json, or of the state that the journal adds up to; none is computed here.
"""

from rankdeck.runner.advice.findings import findings
from rankdeck.runner.protocol import RankSummary
from rankdeck.tui.report import answers, document
from rankdeck.tui.report.document import Column as Col
from rankdeck.tui.report.document import Document, Fact, Item, Notice, Prose, Section, Table, words
from rankdeck.tui.report.measured import measured
from rankdeck.tui.report.over_time import over_time
from rankdeck.tui.report.settings import config, environment
from rankdeck.tui.report.source import ReportSource
from rankdeck.tui.report.sweep import sweep_headline, sweep_sections
from rankdeck.tui.words.text import some


def report(
    source: ReportSource, compared: list[Section] | None = None, *, also: ReportSource | None = None
) -> Document:
    """The whole report. `compared` sections come first; `also` is the other run, whose curve joins the chart."""
    run = source.run
    is_sweep = source.is_sweep
    sections = list(compared or [])
    if is_sweep:
        sections += sweep_sections(source)
    else:
        sections += [section for section in (_findings(source), over_time(source, also)) if section is not None]
        sections += sweep_sections(source) if source.sweep is not None and source.sweep.measured else []
    if not (is_sweep and (source.answers is None or source.answers.count == 0)):
        sections += [section for section in (_ranks(source), answers.section(source)) if section is not None]
    sections += [measured(source), config(source), environment(source)]
    return Document(
        title=run.name,
        facts=_facts(source),
        notices=_notices(source),
        headline=[*(sweep_headline(source) if is_sweep else []), *_headline(source)],
        sections=sections,
        version=run.environment.rankdeck if run.environment is not None else "",
    )


def model_label(source: ReportSource) -> str:
    return source.state.model_label if source.state is not None else source.run.config.model


def devices(source: ReportSource) -> str:
    """`2 ranks on NVIDIA H200 (bfloat16)`."""
    run, state = source.run, source.state
    ready = [rank.ready for rank in state.ranks if rank.ready is not None] if state is not None else []
    names = sorted({one.device_name for one in ready}) or (run.environment.devices[:1] if run.environment else [])
    kinds = sorted({one.dtype for one in ready})
    return (
        some(run.config.ranks, "rank")
        + (f" on {', '.join(names)}" if names else "")
        + (f", {', '.join(kinds)}" if kinds else "")
    )


def _facts(source: ReportSource) -> list[str]:
    run = source.run
    kind = "sweep" if source.is_sweep else "run"
    return [kind, model_label(source), devices(source), run.config.length_mode, document.moment(run.started_at)]


def _headline(source: ReportSource) -> list[Fact]:
    summary, facts = source.summary, []
    if summary is None:
        return []
    if not source.is_sweep:
        facts.append(
            Fact(
                f"output tokens per second, {summary.length}",
                document.decimals(summary.tokens_per_second, 3),
                "tokens/s",
            )
        )
    facts.append(Fact("output tokens", document.whole(summary.output_tokens)))
    if not source.is_sweep or summary.completed + summary.failed > 0:
        done = Item(summary.completed, f"{summary.completed:,}", f"of {summary.prompts:,}")
        facts += [Fact("prompts done", done), Fact("prompts failed", document.whole(summary.failed))]
    facts.append(Fact("seconds", document.decimals(summary.seconds, 3)))
    if not source.is_sweep:
        facts.append(Fact("padding waste", document.share(summary.padding_waste)))
    return facts


def _notices(source: ReportSource) -> list[Notice]:
    run, summary = source.run, source.summary
    notices = []
    if run.status == "failed":
        notices.append(
            Notice("bad", "The run failed.", run.cause or "No cause is known; runner.log has its last lines.")
        )
    elif run.status == "stopped":
        notices.append(Notice("warn", "The run was stopped before its end.", run.cause or ""))
    elif run.status == "running":
        taken = document.moment(source.read_at)
        if source.live:
            notices.append(Notice("info", "The run is still going.", f"Figures as of {taken}."))
        else:
            cure = f"Its last figures are here; `rankdeck resume {run.name}` goes on with it."
            notices.append(Notice("warn", "The run lost its supervisor before its end.", cure))
    if summary is not None and summary.completed == 0 and not source.is_sweep:
        notices.append(Notice("warn", "No prompt is done.", "There are no answers, so all figures are zero."))
    if summary is not None and summary.failed:
        some_failed = some(summary.failed, "prompt") + " ended in an error."
        notices.append(Notice("warn", some_failed, "See Answers."))
    notices += [Notice("warn", "Something is missing.", text) for text in source.missing]
    return notices


def _findings(source: ReportSource) -> Section | None:
    """What the timeline shows, in the words of the dashboard."""
    found = findings(source.state) if source.state is not None else ()
    return Section("findings", "What the timeline shows", [Prose([each.text for each in found])]) if found else None


def _ranks(source: ReportSource) -> Section | None:
    summary = source.summary
    if summary is None or not summary.ranks:
        return None
    columns = [
        Col("rank"), Col("device", number=False), Col("prompts"), Col("batches"), Col("prompt tokens"),
        Col("output tokens"), Col("tokens/s"), Col("padding waste"), Col("idle"),
    ]  # fmt: skip
    total = [
        words("all"), document.NOT_THERE, document.whole(sum(rank.prompts for rank in summary.ranks)),
        document.whole(sum(rank.batches for rank in summary.ranks)), document.whole(summary.prompt_tokens),
        document.whole(summary.output_tokens), document.decimals(summary.tokens_per_second, 3),
        document.share(summary.padding_waste), document.NOT_THERE,
    ]  # fmt: skip
    rows = [_rank_row(rank) for rank in summary.ranks]
    table = Table(title="Each rank's share", columns=columns, rows=[*rows, total], strong=[len(rows)])
    return Section("ranks", "Ranks", [table])


def _rank_row(rank: RankSummary) -> list[Item]:
    return [
        document.whole(rank.rank),
        words(rank.device),
        document.whole(rank.prompts),
        document.whole(rank.batches),
        document.whole(rank.prompt_tokens),
        document.whole(rank.output_tokens),
        document.decimals(rank.tokens_per_second, 3),
        document.share(rank.padding_waste),
        document.share(rank.idle),
    ]
