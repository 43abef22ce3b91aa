"""The report as one HTML file that stands alone: no script, no network, no font.

Every text is made visible and then escaped by the template. Only charts, which ElementTree has escaped, go in as they
are.
"""

from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from rankdeck.tui.report.chart import draw
from rankdeck.tui.report.document import Document, Item
from rankdeck.tui.words.text import visible

HTML_MARK = '<meta name="generator" content="rankdeck'
TEMPLATE = Path(__file__).with_name("report.html.jinja")


def to_html(document: Document) -> str:
    """The whole report as text."""
    return _template().render(document=document)


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["chart"] = lambda plot: Markup(draw(plot))  # escaped where it is made
    environment.globals["exact"] = _exact
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _shown(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _exact(item: Item) -> str:
    """The exact value, for programs; the text shown may be rounded."""
    return repr(item.raw)
