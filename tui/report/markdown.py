"""The report as GitHub-flavoured Markdown: charts are described in words.

Every text is escaped, so that no name, prompt or error becomes markup, a link or another table cell.
"""

import re

from rankdeck.tui.report.document import Chart, Document, Item, Prose, Table
from rankdeck.tui.words.text import visible

MARKDOWN_MARK = "<!-- rankdeck report -->"

_SPECIAL = re.compile(r"([\\`*_\[\]|~$#])")
_LINK = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(:)|\b(www)(\.)|(@)")


def escape(text: str) -> str:
    """One line of Markdown that reads exactly as the text: no markup, tags, entities or links."""
    text = visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _SPECIAL.sub(r"\\\1", text)
    return _LINK.sub(lambda match: "".join(part for part in match.groups() if part)[:-1] + _entity(match), text)


def _entity(match: re.Match[str]) -> str:
    return f"&#{ord(match[0][-1])};"


def to_markdown(document: Document) -> str:
    """The whole report as text."""
    lines = [
        MARKDOWN_MARK,
        "",
        f"# {escape(document.title)}",
        "",
        " · ".join(escape(fact) for fact in document.facts),
        "",
    ]
    for notice in document.notices:
        lines += [f"> **{escape(notice.title)}** {escape(notice.text)}".rstrip(), ""]
    if document.headline:
        lines += ["| figure | value | unit |", "| :--- | ---: | :--- |"]
        lines += [f"| {escape(fact.label)} | {_item(fact.item)} | {escape(fact.unit)} |" for fact in document.headline]
        lines.append("")
    for section in document.sections:
        lines += [f"## {escape(section.title)}", ""]
        for block in section.blocks:
            if isinstance(block, Table):
                lines += _table(block)
            elif isinstance(block, Prose):
                lines += [line for text in block.paragraphs for line in (escape(text), "")]
            elif isinstance(block, Chart):
                lines += [f"*{escape(block.plot.title)} (drawn in report.html). {escape(block.plot.description)}*", ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(table: Table) -> list[str]:
    heads = [escape(f"{column.title}, {column.unit}" if column.unit else column.title) for column in table.columns]
    lines = [f"**{escape(table.title)}**", "", f"| {' | '.join(heads)} |"]
    lines.append("| " + " | ".join("---:" if column.number else ":---" for column in table.columns) + " |")
    for place, row in enumerate(table.rows):
        cells = [_item(item, bold=place in table.strong) for item in row]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *([escape(table.note), ""] if table.note else [])]


def _item(item: Item, *, bold: bool = False) -> str:
    text = escape(f"{item.text} {item.note}" if item.note else item.text)
    if item.look == "best":
        text += " ★"
    return f"**{text}**" if text and (bold or item.look == "best") else text
