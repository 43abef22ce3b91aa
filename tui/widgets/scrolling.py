"""The keys for scrolling, arrows and vim's, declared once for everything that scrolls."""

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget


def _scroll(keys: str, action: str, description: str, tooltip: str) -> Binding:
    name = f"scroll.{description.lower().replace(' ', '_')}"
    return Binding(keys, action, description, id=name, tooltip=tooltip, show=False)


class Scrolling(Widget, inherit_bindings=False):
    """A mixin, put before the scrolling widget among the bases; replaces Textual's own scrolling keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        _scroll("up,k", "scroll_up", "Up", "A line up"),
        _scroll("down,j", "scroll_down", "Down", "A line down"),
        _scroll("pageup,ctrl+b", "page_up", "Page up", "A page up"),
        _scroll("pagedown,ctrl+f", "page_down", "Page down", "A page down"),
        _scroll("ctrl+u", "half_page(-1)", "Half a page up", "Half a page up"),
        _scroll("ctrl+d", "half_page(1)", "Half a page down", "Half a page down"),
        _scroll("home,g", "scroll_home", "To the top", "To the beginning"),
        _scroll("end,G", "scroll_end", "To the bottom", "To the end"),
    ]

    def action_half_page(self, way: int) -> None:
        self.scroll_relative(y=way * max(1, self.scrollable_content_region.height // 2), animate=False)


class ScrollBox(Scrolling, VerticalScroll, can_focus=True):
    """A box of widgets that scrolls."""
