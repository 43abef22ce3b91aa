"""A whole answer to scroll through, match by match. Knows one answer at a time."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from rankdeck.runner.protocol import OutputRecord
from rankdeck.tui.panels.outputs.answer_lines import Page, answer_page
from rankdeck.tui.panels.outputs.finding import Finds
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Lines

AIRY_HEIGHT = 12
"""The height, in lines, from which there is room for empty lines."""


def _key(keys: str, action: str, description: str) -> Binding:
    name = f"text.{action.removeprefix('scroll_')}"
    return Binding(keys, action, description, id=name, tooltip=f"{description}, in the whole answer", show=False)


class AnswerText(VerticalScroll, can_focus=True, inherit_bindings=False):
    """Shows an answer; a new one starts at its top. Nothing scrolls sideways, so left and right are free for others."""

    app: Deck

    BINDINGS: ClassVar[list[BindingType]] = [
        _key("up,k", "scroll_up", "A line up"),
        _key("down,j", "scroll_down", "A line down"),
        _key("pageup,ctrl+b", "page_up", "A page up"),
        _key("pagedown,ctrl+f", "page_down", "A page down"),
        _key("home,g", "scroll_home", "To the top"),
        _key("end,G", "scroll_end", "To the end"),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines = Lines()
        self._page = Page([], [])
        self._shown: tuple[OutputRecord | None, Finds, float | None, int] | None = None
        self.here: int | None = None
        """The match that the user went to."""

    def compose(self) -> ComposeResult:
        yield self._lines

    @property
    def found(self) -> int:
        return len(self._page.found)

    def show(self, record: OutputRecord | None, finds: Finds, seconds: float | None = None) -> None:
        width = self.scrollable_content_region.width
        before, shown = self._shown, (record, finds, seconds, width)
        if not width or shown == before:
            return
        self._shown = shown
        moved = before is None or before[0] is not record
        if moved or before is None or before[1] is not finds:
            self.here = None
        self._draw()
        if moved:
            self.scroll_home(animate=False)

    def _draw(self) -> None:
        assert self._shown is not None
        record, finds, seconds, width = self._shown
        if record is None:
            self._page = Page([], [])
        else:
            self._page = answer_page(
                record,
                width,
                finds=finds,
                here=self.here,
                seconds=seconds,
                airy=self.size.height >= AIRY_HEIGHT,
                keys=self.app.keys,
                paged=self.app.at_home,
            )
        self._lines.show(self._page.lines)

    def next_found(self, by: int) -> bool:
        """Go to the next match (`by` 1) or the one before (-1); False if there is none."""
        here = self.here if self.here is not None else (-1 if by > 0 else len(self._page.found))
        if not 0 <= here + by < len(self._page.found):
            return False
        self.here = here + by
        self._draw()
        line, height = self._page.found[self.here], self.size.height
        if not self.scroll_offset.y <= line < self.scroll_offset.y + height:
            self.scroll_to(y=max(0, line - height // 2), animate=False)
        return True
