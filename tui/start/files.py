"""The file picker: a folder's files of prompts, picked with the keyboard. Names are data: escaped and cut to fit.

Knows a function that lists a folder, which may block and is called in a thread. Reads no folder itself.
"""

import asyncio
import os
from collections.abc import Callable
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Click, Key
from textual.geometry import Region, Size
from textual.message import Message
from textual.screen import ModalScreen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input

from rankdeck.runner.inputs.prompts.kinds import SUFFIXES
from rankdeck.tui.start.folder import Entry, Listing
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.fields import TextField
from rankdeck.tui.widgets.lines import Lines, Painter
from rankdeck.tui.words import text
from rankdeck.tui.words.text import Line, between, cut_middle, some, visible

UP = Entry("..", True)

ReadFolder = Callable[[str, bool], Listing]

KEYS = "{files.pick} picks  {files.above} up  {files.hidden} hidden  {files.filter} filter  {files.close} closes"


def entry_line(entry: Entry, width: int, *, here: bool = False) -> Line:
    """A name, and for a file its lines and size on the right. A mark shows the cursor even without colours."""
    mark = ("▸ " if here else "  ", "key")
    if entry.is_folder:
        return (mark, (cut_middle(visible(entry.name), width - 4) + "/", "key"))
    figures = text.pad(text.size(entry.size), 10, "right")
    lines = some(entry.lines, "line") if entry.lines is not None else ""
    right: Line = ((text.pad(lines, 14, "right") if width >= 50 else "", "dim"), (figures, "dim"))
    name = cut_middle(visible(entry.name), max(4, width - text.line_width(right) - 3))
    return between((mark, (name, "strong" if here else "")), right, width)


def matching(entries: tuple[Entry, ...], typed: str) -> list[Entry]:
    """The entries whose name contains `typed`, ignoring case; names that begin with it come first."""
    sought = typed.casefold()
    found = [entry for entry in entries if sought in visible(entry.name).casefold()]
    return sorted(found, key=lambda entry: not entry.name.casefold().startswith(sought)) if sought else found


class FolderList(ScrollView, Painter, can_focus=True):
    """The entries of a folder, one a row, and a cursor."""

    DEFAULT_CSS = """
    FolderList { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; background: $surface; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", id="files.up", tooltip="The entry above", show=False),
        Binding("down,j", "move(1)", "Down", id="files.down", tooltip="The entry below", show=False),
        Binding("pageup", "page(-1)", "Page up", id="files.page_up", tooltip="A page up", show=False),
        Binding("pagedown", "page(1)", "Page down", id="files.page_down", tooltip="A page down", show=False),
        Binding("home", "edge(0)", "First", id="files.first", tooltip="The first entry", show=False),
        Binding("end", "edge(1)", "Last", id="files.last", tooltip="The last entry", show=False),
        Binding("enter,right", "pick", "Pick", id="files.pick", tooltip="Take the file, or go into the folder"),
    ]

    class Picked(Message):
        """An entry was chosen."""

        def __init__(self, entry: Entry) -> None:
            super().__init__()
            self.entry = entry

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.entries: list[Entry] = []
        self.empty = ""
        self._cursor = 0

    @property
    def entry(self) -> Entry | None:
        return self.entries[self._cursor] if self.entries else None

    def show(self, entries: list[Entry], empty: str, at: str | None = None) -> None:
        """Show `entries` with the cursor on the one named `at`; `empty` is the line below them: why there are none."""
        self.entries, self.empty = entries, empty
        self._cursor = next((number for number, entry in enumerate(entries) if entry.name == at), 0)
        self.virtual_size = Size(self.scrollable_content_region.width, len(entries))
        self.scroll_to(y=0, animate=False, force=True)
        self._go(self._cursor)

    def _go(self, to: int) -> None:
        self._cursor = max(0, min(len(self.entries) - 1, to))
        if self.size.height:
            self.scroll_to_region(Region(0, self._cursor, 1, 1), animate=False, force=True)
        self.refresh()

    def action_move(self, by: int) -> None:
        self._go(self._cursor + by)

    def action_page(self, direction: int) -> None:
        self._go(self._cursor + direction * max(1, self.size.height - 1))

    def action_edge(self, end: int) -> None:
        self._go(len(self.entries) - 1 if end else 0)

    def action_pick(self) -> None:
        if (entry := self.entry) is not None:
            self.post_message(self.Picked(entry))

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def on_click(self, event: Click) -> None:
        at = event.y + self.scroll_offset.y
        if at < len(self.entries):
            again = at == self._cursor
            self._go(at)
            if again:
                self.action_pick()

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        at = y + self.scroll_offset.y
        if at >= len(self.entries):
            return self.paint(((self.empty if at == len(self.entries) else "", "dim"),), width)
        here = at == self._cursor
        line = entry_line(self.entries[at], width, here=here)
        return self.paint(line, width, self.style_of("cursor") if here and self.has_focus else None)


class Filter(TextField):
    """The text to filter names by. When it is empty, backspace is a key of the picker."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "delete_left" or bool(self.value)


class FilePicker(ModalScreen[str]):
    """Gives the path of a file, or None if it is closed with escape."""

    app: Deck

    DEFAULT_CSS = """
    FilePicker #picker {
        width: 90;
        max-width: 94%;
        height: 90%;
        max-height: 34;
        padding: 0 1;
        border: round $primary;
        border-title-style: bold;
        border-subtitle-color: $quiet;
        background: $surface;
    }
    FilePicker #picker-path { height: 1; background: $surface; margin-bottom: 1; }
    FilePicker #picker-filter { background: $panel; margin-top: 1; padding: 0 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="files.close", tooltip="Back without a file"),
        Binding("backspace,left,h", "up", "Folder above", id="files.above", tooltip="To the folder above"),
        Binding("full_stop", "hidden", "Hidden", key_display=".", id="files.hidden", tooltip="Hidden files, or not"),
        Binding("slash", "filter", "Filter", key_display="/", id="files.filter", tooltip="Type a part of a name"),
    ]

    def __init__(self, read_folder: ReadFolder, start: str = "") -> None:
        """`start` is the path to begin at: its folder is shown, with the cursor on it."""
        super().__init__()
        self._read_folder = read_folder
        self._start = start
        self._hidden = False
        self._listing = Listing(start)

    def compose(self) -> ComposeResult:
        with Vertical(id="picker") as box:
            box.border_title = "A file of prompts"
            box.border_subtitle = self.app.hint(KEYS)
            yield Lines(id="picker-path")
            yield FolderList(id="folder")
            yield Filter(placeholder="type a part of a name", id="picker-filter", compact=True, select_on_focus=False)

    def on_mount(self) -> None:
        self._list = self.query_one(FolderList)
        self._filter = self.query_one("#picker-filter", Input)
        self._list.focus()
        self._list.show([], "looking")
        self._go(self._start, os.path.basename(self._start))

    @work(exclusive=True)
    async def _go(self, path: str, at: str | None = None) -> None:
        self._listing = await asyncio.to_thread(self._read_folder, path, self._hidden)
        with self.prevent(Input.Changed):
            self._filter.value = ""
        self._show(at)

    def _show(self, at: str | None = None) -> None:
        listing, typed = self._listing, self._filter.value
        found = matching(listing.entries, typed)
        width = max(10, self._list.size.width)
        counted = f"  {some(listing.more, 'entry', 'entries')} more are not shown" if listing.more else ""
        self.query_one("#picker-path", Lines).show(
            [((cut_middle(visible(listing.path), width - len(counted)), "strong"), (counted, "warn"))]
        )
        kinds = ", ".join(SUFFIXES)
        empty = f"nothing here is called {visible(typed)!r}" if typed else f"no folder and no {kinds} here"
        if listing.error is not None:
            empty = visible(listing.error)
        above = [UP] if not typed and os.path.dirname(listing.path) != listing.path else []
        known = at is not None and any(entry.name == at for entry in found)
        first = at if known else found[0].name if found else None
        self._list.show([*above, *found], "" if found else empty, first)

    # --- keys -------------------------------------------------------------------------------------

    def on_key(self, event: Key) -> None:
        """A letter that is not a key starts a filter; in the filter the arrows still move the cursor of the list."""
        typing = self.focused is self._filter
        if typing and event.key in ("up", "down", "pageup", "pagedown"):
            event.stop()
            step = self._list.action_move if event.key in ("up", "down") else self._list.action_page
            step(-1 if event.key.endswith("up") else 1)
        elif typing and event.key == "backspace" and not self._filter.value:
            event.stop()
            self._list.focus()
        elif event.is_printable and event.character and (typing or event.key not in self.active_bindings):
            # Letters typed into the filter stay there: this one was typed before the filter had the focus.
            event.stop()
            self.set_focus(self._filter)  # now: the next letter is already waiting
            self._filter.insert_text_at_cursor(event.character)

    @on(Input.Changed)
    def _filtered(self) -> None:
        self._show()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self._list.action_pick()

    @on(FolderList.Picked)
    def _picked(self, event: FolderList.Picked) -> None:
        path = os.path.join(self._listing.path, event.entry.name)
        if event.entry == UP:
            self.action_up()
        elif event.entry.is_folder:
            self._list.focus()
            self._go(path)
        else:
            self.dismiss(path)

    def action_up(self) -> None:
        path = self._listing.path
        self._go(os.path.dirname(path), os.path.basename(path))

    def action_hidden(self) -> None:
        self._hidden = not self._hidden
        entry = self._list.entry
        self._go(self._listing.path, entry.name if entry is not None else None)

    def action_filter(self) -> None:
        self._filter.focus()

    def action_close(self) -> None:
        """From the filter back to the list; from the list, close."""
        if self._filter.value:
            self._filter.value = ""
            self._list.focus()
        elif self.focused is self._filter:
            self._list.focus()
        else:
            self.dismiss()
