"""The report as CSV and JSON, with exact values.

CSV has a line for the whole run and one per rank, or for a sweep a line per trial. JSON has run.json as it is, and
beside it what was derived. Spreadsheets evaluate cells that begin like a formula; texts in CSV never do.
"""

import csv
import io
from typing import Any

import msgspec

from rankdeck.runner.advice.findings import findings
from rankdeck.runner.protocol import RankSummary, Summary
from rankdeck.runner.protocol.sweep_plan import TrialRecord, TrialResult
from rankdeck.tui.report.compare import differences, rank_differences, setting_differences
from rankdeck.tui.report.source import EqualTexts, ReportSource
from rankdeck.tui.words.text import visible

JSON_MARK = "rankdeck_report"
FORMULA_STARTS = "=+-@＝＋－＠"  # noqa: RUF001 - spreadsheets take the wide ones for the same

_RANK_FIELDS = [field.name for field in msgspec.structs.fields(RankSummary) if field.name not in ("rank", "device")]
_TRIAL_FIELDS = ["number", "repeat", "active_ranks", "batch_size"]
_RESULT_FIELDS = [field.name for field in msgspec.structs.fields(TrialResult)]
_STEPS = ("step_ms_p50", "step_ms_p90", "step_ms_p99")


def harmless(text: str) -> str:
    """Text for a cell: control characters made visible, and never the start of a formula."""
    text = visible(text)
    return f"'{text}" if text.lstrip()[:1] in (*FORMULA_STARTS,) and text.strip() else text


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, list | tuple):
        return ";".join(_cell(one) for one in value)
    return repr(value)


def to_csv(source: ReportSource, other: ReportSource | None = None) -> str:
    """A header, then the lines of the run or sweep; those of `other` follow if it is of the same kind."""
    sources = [source]
    if other is not None and other.is_sweep == source.is_sweep:
        sources.append(other)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if source.is_sweep:
        results = [name for name in _RESULT_FIELDS if name != "step_ms"]
        writer.writerow(["run", *_TRIAL_FIELDS, "outcome", *results, *_STEPS, "reason"])
        for one in sources:
            for record in one.sweep.records if one.sweep is not None else []:
                writer.writerow([_cell(value) for value in _trial(one.run.name, record, results)])
    else:
        writer.writerow(["run", "rank", "device", *_RANK_FIELDS, "failed", "seconds", "length"])
        for one in sources:
            for row in _run(one.run.name, one.summary):
                writer.writerow([_cell(value) for value in row])
    return text.getvalue()


def _run(name: str, summary: Summary | None) -> list[list[Any]]:
    if summary is None:
        return [[name, "all", *[None] * (len(_RANK_FIELDS) + 4)]]
    rows = [
        [name, rank.rank, rank.device, *(getattr(rank, field) for field in _RANK_FIELDS), None, None, summary.length]
        for rank in summary.ranks
    ]
    whole = {
        "prompts": summary.completed + summary.failed,
        "batches": sum(rank.batches for rank in summary.ranks),
        "prompt_tokens": summary.prompt_tokens,
        "output_tokens": summary.output_tokens,
        "tokens_per_second": summary.tokens_per_second,
        "padding_waste": summary.padding_waste,
    }
    figures = [whole.get(field) for field in _RANK_FIELDS]
    return [[name, "all", None, *figures, summary.failed, summary.seconds, summary.length], *rows]


def _trial(name: str, record: TrialRecord, results: list[str]) -> list[Any]:
    trial, result = record.trial, record.result
    steps = result.step_ms if result is not None and result.step_ms is not None else (None, None, None)
    return [
        name,
        *(getattr(trial, field) for field in _TRIAL_FIELDS),
        record.outcome,
        *(getattr(result, field, None) for field in results),
        *steps,
        record.reason,
    ]


def to_json(source: ReportSource, other: ReportSource | None = None, texts: EqualTexts | None = None) -> bytes:
    """run.json as `run`, and what the journal and the answers add; with `other` also the comparison."""
    value: dict[str, Any] = {JSON_MARK: 1, **_facts(source)}
    if other is not None:
        figures = differences(source.summary, other.summary) + rank_differences(source.summary, other.summary)
        value["other"] = _facts(other)
        value["comparison"] = {
            "figures": [
                {
                    "figure": each.figure,
                    "one": each.one,
                    "other": each.other,
                    "difference": each.difference,
                    "percent": each.percent,
                }
                for each in figures
            ],
            "settings": [
                {"setting": name, "one": mine, "other": theirs}
                for name, mine, theirs in setting_differences(source.run.config, other.run.config)
            ],
            "texts": texts,
        }
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _facts(source: ReportSource) -> dict[str, Any]:
    state = source.state
    return {
        "run": source.run,
        "live": source.live,
        "read_at": source.read_at,
        "summary": source.summary,
        "sweep": source.sweep,
        "finish_reasons": source.answers.reasons if source.answers is not None else None,
        "output_lengths": (
            {str(length): count for length, count in sorted(source.answers.lengths.items())}
            if source.answers is not None
            else None
        ),
        "history": state.history if state is not None else None,
        "marks": state.marks if state is not None else None,
        "findings": [found.text for found in findings(state)] if state is not None else None,
        "stretches": (
            [
                {
                    "began": one.began,
                    "batch_size": one.batch_size,
                    "active_ranks": one.active_ranks,
                    "batches": one.batches,
                    "tokens_per_second": one.tokens_per_second,
                    "cold": one.cold,
                    "peak_memory_bytes": one.peak_memory_bytes,
                    "reserved_memory_bytes": one.reserved_memory_bytes,
                    "auto": one.auto,
                    "reason": one.reason,
                }
                for one in state.periods
            ]
            if state is not None
            else None
        ),
        "missing": source.missing,
    }
