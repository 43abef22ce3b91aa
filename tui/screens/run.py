"""The screen of a run: the header line, and one of its views. Holds layout and keys, no figures."""

from typing import TYPE_CHECKING, ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer, Static

from runner.state import RunState
from tui.outputs import OutputBook
from tui.widgets.header import header_line
from tui.widgets.lines import Lines
from tui.widgets.overview import Overview

if TYPE_CHECKING:
    from tui.app import RankdeckApp

ViewName = Literal["overview", "outputs", "log"]

TOO_SMALL = "rankdeck needs a terminal of at least 60x18"


class RunScreen(Screen[None]):
    """Shows the state it is given; the other views are built when they are first asked for."""

    app: "RankdeckApp"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "view('overview')", "Overview", id="view.overview", tooltip="Speed, progress, GPUs, ranks"),
        Binding("2", "view('outputs')", "Outputs", id="view.outputs", tooltip="Every answer as it arrives"),
        Binding("3", "view('log')", "Log", id="view.log", tooltip="What the supervisor and the ranks say"),
        Binding("s", "app.stop", "Stop", id="run.stop", tooltip="Stop the run after the batches in flight"),
        Binding("d", "app.detach", "Detach", id="run.detach", tooltip="Leave; the run goes on"),
        Binding("q", "app.leave", "Quit", id="app.leave", tooltip="Leave; asks first while the run goes on"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.view: ViewName = "overview"
        self._state = RunState()
        self._book = OutputBook()
        self._lost: str | None = None

    def compose(self) -> ComposeResult:
        yield Static(TOO_SMALL, id="too-small", markup=False)
        yield Lines(id="header")
        with Container(id="views"):
            yield Overview(id="overview")
        yield Footer()

    def on_mount(self) -> None:
        self._header = self.query_one("#header", Lines)
        self._overview = self.query_one(Overview)
        self._overview.focus()

    def show(self, state: RunState, book: OutputBook, lost: str | None) -> None:
        """Show a state in the view that is seen; the others get it when they are."""
        self._state, self._book, self._lost = state, book, lost
        if self.is_mounted:
            self._draw()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        if not self.size.width:
            return
        self._header.show([header_line(self._state, self._header.content_size.width)])
        if self.view == "overview":
            self._overview.show(self._state, self._book, self._lost)
        elif self.view == "outputs":
            from tui.widgets.answers import OutputsView

            self.query_one(OutputsView).show(self._book)
        else:
            from tui.widgets.log import LogView

            self.query_one(LogView).show(self._state.log)

    async def action_view(self, name: ViewName) -> None:
        """Change to another view, and show it the newest state at once."""
        if name == self.view:
            return
        views = self.query_one("#views")
        if name == "outputs" and not views.query("#outputs"):
            from tui.widgets.answers import OutputsView

            await views.mount(OutputsView(id="outputs"))
        if name == "log" and not views.query("#log"):
            from tui.widgets.log import LogView

            await views.mount(LogView(id="log"))
        self.view = name
        for view in views.children:
            view.display = view.id == name
        if name == "overview":
            self._overview.focus()
        elif name == "outputs":
            self.query_one("#answers").focus()
        else:
            self.query_one("#log").focus()
        self._draw()
