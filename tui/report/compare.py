"""Two runs side by side: headline figures, ranks, settings, environments, cells of sweeps, and their differences. Pure.

`one` is the run reported, `other` the run it is compared with: differences are one minus other, percentages of other.
"""

from typing import Any

import msgspec

from rankdeck.runner.protocol import Summary
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.run_directory.run_file import RunFile
from rankdeck.runner.sweep.cells import Cell
from rankdeck.runner.sweep.intervals import told_apart
from rankdeck.runner.sweep.verdict import SweepSummary
from rankdeck.tui.panels.sweep.figures import rate_value
from rankdeck.tui.report import document
from rankdeck.tui.report.document import Block, Item, Prose, Section, Table, words
from rankdeck.tui.report.document import Column as Col
from rankdeck.tui.report.settings import environment_values, setting
from rankdeck.tui.report.source import EqualTexts, ReportSource
from rankdeck.tui.words.sweep import rate_places
from rankdeck.tui.words.text import pad, some, visible

_NOT_COMPARED = ("name", "output", "max_restarts", "patience")
"""Settings without effect on any figure."""

_CHANGES_WORK = (
    "prompts",
    "model",
    "max_new_tokens",
    "ignore_eos",
    "limit",
    "column",
    "chat",
    "do_sample",
    "dtype",
    "quantization",
)
"""Settings that change the work itself, so that figures differ for that reason alone."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of both runs. A `share` is from 0 to 1, and its difference is in percentage points.

    `percent` is the difference relative to the other run; None for shares, and where the other has no figure or zero.
    """

    figure: str
    digits: int = 0
    share: bool = False
    one: float | int | None
    other: float | int | None

    @property
    def difference(self) -> float | int | None:
        return self.one - self.other if self.one is not None and self.other is not None else None

    @property
    def percent(self) -> float | None:
        if self.share or self.difference is None or not self.other:
            return None
        return self.difference / self.other * 100

    def items(self) -> list[Item]:
        """Both figures, the difference and the percentage as text."""
        difference, percent = self.difference, self.percent
        if difference is None:
            told = document.NOT_AVAILABLE
        elif self.share:
            told = Item(difference, _signed(difference * 100, 2) + " points")
        else:
            told = Item(difference, _signed(difference, self.digits))
        share = document.NOT_THERE if percent is None else Item(percent, _signed(percent, 1) + "%")
        return [self._item(self.one), self._item(self.other), told, share]

    def _item(self, value: float | int | None) -> Item:
        return document.share(value) if self.share else document.decimals(value, self.digits)


def _signed(value: float, digits: int) -> str:
    """A number with its sign, without one where it rounds to zero."""
    text = f"{value:+,.{digits}f}"
    return text if any(digit in text for digit in "123456789") else text[1:]


def differences(one: Summary | None, other: Summary | None) -> list[Difference]:
    """The headline figures of both runs."""

    def figure(name: str, attribute: str, digits: int = 0, *, share: bool = False) -> Difference:
        return Difference(
            figure=name,
            digits=digits,
            share=share,
            one=getattr(one, attribute, None),
            other=getattr(other, attribute, None),
        )

    return [
        figure("tokens/s", "tokens_per_second", 3),
        figure("output tokens", "output_tokens"),
        figure("prompt tokens", "prompt_tokens"),
        figure("prompts done", "completed"),
        figure("prompts failed", "failed"),
        figure("seconds", "seconds", 3),
        figure("padding waste", "padding_waste", share=True),
    ]


def rank_differences(one: Summary | None, other: Summary | None) -> list[Difference]:
    """Each rank's tokens/s in both runs; None in a run that has no such rank."""
    rates = [{rank.rank: rank.tokens_per_second for rank in run.ranks} if run else {} for run in (one, other)]
    return [
        Difference(figure=f"rank {rank} tokens/s", digits=3, one=rates[0].get(rank), other=rates[1].get(rank))
        for rank in sorted(rates[0].keys() | rates[1].keys())
    ]


def setting_differences(one: RunConfig, other: RunConfig) -> list[tuple[str, Any, Any]]:
    """The settings that differ: the name, and the value in each run."""
    mine, theirs = msgspec.to_builtins(one), msgspec.to_builtins(other)
    return [
        (name, mine[name], theirs[name])
        for name in mine
        if name not in _NOT_COMPARED and name != "sweep" and mine[name] != theirs[name]
    ]


def caution(one: RunFile, other: RunFile) -> str | None:
    """Why the two runs did not do the same work; None if they did."""
    if one.config.ignore_eos != other.config.ignore_eos:
        return (
            f"{one.name} has {one.config.length_mode}, {other.name} {other.config.length_mode}: "
            "their tokens/s are not to be compared."
        )
    changed = [name for name, _, _ in setting_differences(one.config, other.config) if name in _CHANGES_WORK]
    if one.prompts_digest and other.prompts_digest:  # the same prompts may have two names, and one name two contents
        changed = [name for name in changed if name not in ("prompts", "limit", "column", "chat")]
        changed = [*(["prompts"] if one.prompts_digest != other.prompts_digest else []), *changed]
    elif one.prompts != other.prompts and "prompts" not in changed:
        changed.append("number of prompts")
    if one.config.new_tokens != other.config.new_tokens and "max_new_tokens" not in changed:
        changed.append("tokens of a trial's answers")
    return f"Not the same work: {', '.join(changed)} differ." if changed else None


def comparison_lines(one: RunFile, other: RunFile) -> list[str]:
    """The figures of two runs in aligned lines of plain text, safe for a terminal."""
    rows = [["", visible(one.name), visible(other.name), "difference", ""]]
    figures = differences(one.summary, other.summary) + rank_differences(one.summary, other.summary)
    rows += [[each.figure, *(item.text for item in each.items())] for each in figures]
    widths = [max(len(row[place]) for row in rows) for place in range(5)]
    lines = [
        "  ".join(
            pad(cell, width, "left" if place == 0 else "right")
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    for name, mine, theirs in setting_differences(one.config, other.config):
        lines.append(f"{name}: {visible(setting(name, mine).text)} against {visible(setting(name, theirs).text)}")
    if (why := caution(one, other)) is not None:
        lines.append(visible(why))
    return lines


# --- in a report --------------------------------------------------------------------------------


def compared(one: ReportSource, other: ReportSource, texts: EqualTexts | None) -> list[Section]:
    """The sections of a report that compare `one` with `other`."""
    names = [Col(one.run.name), Col(other.run.name), Col("difference"), Col("", "of the other")]
    said = f"Differences are {one.run.name} minus {other.run.name}, percentages are of {other.run.name}."
    why = caution(one.run, other.run)
    blocks: list[Block] = [Prose([said] + ([why] if why else []))]
    blocks.append(
        Table(
            title="Headline figures",
            columns=[Col("figure", number=False), *names],
            rows=[[words(each.figure), *each.items()] for each in differences(one.summary, other.summary)],
        )
    )
    if one.sweep is not None and other.sweep is not None:
        blocks.append(_cells(one.sweep, other.sweep, names))
    if ranks := rank_differences(one.summary, other.summary):
        blocks.append(
            Table(
                title="Each rank's tokens/s",
                columns=[Col("rank", number=False), *names],
                rows=[[words(each.figure.removesuffix(" tokens/s")), *each.items()] for each in ranks],
            )
        )
    blocks.append(Prose([_texts(texts)]))
    blocks += _changed(one.run, other.run)
    return [Section("compare", f"Compared with {other.run.name}", blocks)]


def _texts(texts: EqualTexts | None) -> str:
    if texts is None:
        return "Whether the answers' texts are equal cannot be said: one run's outputs.jsonl is damaged."
    both = texts.equal + texts.differing
    if both == 0:
        return "No prompt has an answer in both runs, so no texts can be compared."
    said = f"Of {some(both, 'prompt')} answered in both runs, {texts.equal:,} have equal texts"
    if texts.differing:
        first = ", ".join(map(str, texts.first))
        said += f" and {texts.differing:,} differ (index {first}{', …' if texts.differing > len(texts.first) else ''})"
    said += "."
    if texts.other_prompt:
        said += f" {some(texts.other_prompt, 'index', 'indexes')} belong to another prompt in the other run."
    if texts.only_one or texts.only_other:
        said += f" Answered only here: {texts.only_one:,}; only there: {texts.only_other:,}."
    return said


def _cells(one: SweepSummary, other: SweepSummary, names: list[Col]) -> Table:
    settings = sorted({cell.setting for sweep in (one, other) for cell in sweep.cells})
    found = [{cell.setting: cell for cell in sweep.cells} for sweep in (one, other)]
    places = rate_places([*one.cells, *other.cells])
    rows = []
    for ranks, size in settings:
        cells = [there.get((ranks, size)) for there in found]
        mine, theirs = cells
        difference = Difference(figure="tokens/s", digits=places, one=_mean(mine), other=_mean(theirs))
        rates = [document.figure(rate_value(cell, places)) if cell else document.NOT_AVAILABLE for cell in cells]
        same = words("within noise" if _within_noise(mine, theirs) else "")
        rows.append([document.whole(ranks), document.whole(size), *rates, *difference.items()[2:], same])
    return Table(
        title="tokens/s of every setting",
        columns=[Col("active ranks"), Col("batch size"), *names, Col("", number=False)],
        rows=rows,
        note="Within noise: the 95 % interval of the difference (Welch's) has 0 in it.",
    )


def _mean(cell: Cell | None) -> float | None:
    return cell.tokens_per_second.mean if cell is not None and cell.tokens_per_second is not None else None


def _within_noise(one: Cell | None, other: Cell | None) -> bool:
    rates = [cell.tokens_per_second for cell in (one, other) if cell is not None and cell.tokens_per_second is not None]
    if len(rates) < 2 or rates[0].half_width is None or rates[1].half_width is None:
        return False
    return not told_apart(rates[0], rates[1])


def _changed(one: RunFile, other: RunFile) -> list[Block]:
    blocks: list[Block] = []
    mine, theirs = environment_values(one), environment_values(other)
    environment = [
        (name, mine.get(name), theirs.get(name))
        for name in dict.fromkeys([*mine, *theirs])
        if mine.get(name) != theirs.get(name)
    ]
    for title, what, found in (
        ("Settings that differ", "settings", setting_differences(one.config, other.config)),
        ("Environments where they differ", "environments", environment),
    ):
        if not found:
            blocks.append(Prose([f"The {what} are the same."]))
            continue
        columns = [Col("what", number=False), Col(one.name, number=False), Col(other.name, number=False)]
        rows = [[words(name), setting(name, value), setting(name, there)] for name, value, there in found]
        blocks.append(Table(title=title, columns=columns, rows=rows))
    return blocks
