"""`rankdeck doctor` as a screen: what this machine has, what would not work, and the cure.

Gathers the facts, the quick ones first. Does not know what they mean: runner.machine.doctor does.
"""

import asyncio
from typing import ClassVar, Protocol

import msgspec
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen

from rankdeck.runner.machine.doctor import findings
from rankdeck.runner.machine.facts import Facts, TorchFound
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Lines
from rankdeck.tui.words.doctor import doctor_lines, verdict, worst_first
from rankdeck.tui.words.text import Line, plain


class Examiner(Protocol):
    """Looks at the machine. `examine` may block."""

    def examine(self) -> Facts: ...

    async def ask_torch(self) -> TorchFound: ...


class DoctorScreen(ModalScreen[None]):
    """The findings; those that take seconds are added when they are known."""

    app: Deck

    DEFAULT_CSS = """
    DoctorScreen #doctor {
        width: 104;
        max-width: 96%;
        height: auto;
        max-height: 94%;
        padding: 0 1;
        border: round $primary;
        border-title-style: bold;
        border-subtitle-color: $quiet;
        background: $surface;
        overflow-x: hidden;
        scrollbar-gutter: stable;
        scrollbar-size-vertical: 1;
        scrollbar-color: $border;
        scrollbar-background: $surface;
        scrollbar-background-hover: $surface;
        scrollbar-background-active: $surface;
    }
    DoctorScreen #findings { background: $surface; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f2,D", "dismiss", "Close", id="doctor.close", tooltip="Back"),
        Binding("r", "again", "Look again", id="doctor.again", tooltip="Look at everything once more"),
        Binding("down,j", "scroll(1)", "Down", id="doctor.down", tooltip="A line down", show=False),
        Binding("up,k", "scroll(-1)", "Up", id="doctor.up", tooltip="A line up", show=False),
    ]

    def __init__(self, examiner: Examiner) -> None:
        super().__init__()
        self._examiner = examiner
        self._facts: Facts | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="doctor") as box:
            box.border_title = "Doctor: this machine"
            box.border_subtitle = self.app.hint("{doctor.again} looks again, {doctor.close} closes")
            yield Lines(id="findings")

    def on_mount(self) -> None:
        self.query_one("#doctor").focus()
        self._draw()
        self._look()

    @work(exclusive=True)
    async def _look(self) -> None:
        self._facts = await asyncio.to_thread(self._examiner.examine)
        self._draw()
        self._facts = msgspec.structs.replace(self._facts, torch=await self._examiner.ask_torch())
        self._draw()

    def _draw(self) -> None:
        lines = self.query_one("#findings", Lines)
        lines.show(_lines(self._facts, max(20, lines.content_size.width)))

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    @property
    def words(self) -> str:
        """The text on the screen, without styles."""
        return plain(self.query_one("#findings", Lines).lines)

    def action_again(self) -> None:
        self._facts = None
        self._draw()
        self._look()

    def action_scroll(self, by: int) -> None:
        self.query_one("#doctor").scroll_relative(y=by, animate=False)


def _lines(facts: Facts | None, width: int) -> list[Line]:
    if facts is None:
        return [(("looking at this machine", "dim"),)]
    checks = findings(facts)
    said = verdict(checks)
    if facts.torch is None:
        said = (("asking torch what it sees, which takes some seconds", "dim"),)
    return [said, (), *doctor_lines(worst_first(checks), width)]
