"""The screen of a run: the header line, and one of its views. Holds layout and keys, no figures."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.reactive import Reactive
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from runner.protocol import SetActiveRanks, SetBatchSize, StartSweep, Stop
from runner.protocol.sweep_plan import SweepPlan
from runner.state import RunState
from tui.panels.overview.header import header_line
from tui.panels.overview.hints import advice_lines
from tui.panels.overview.notice import notice_lines
from tui.screens.sized import Sized
from tui.screens.views import VIEWS, Moment, ViewName, as_view, entry
from tui.settings.hint_keys import named
from tui.settings.keys import keys_of
from tui.sources.knobs import ASKED_FOR
from tui.sources.outputs import OutputBook
from tui.widgets.key_bar import KeyBar
from tui.widgets.lines import Lines
from tui.widgets.overview import Overview
from tui.words.text import Line

if TYPE_CHECKING:
    from tui.app.app import RankdeckApp
    from tui.screens.batch_size import Answer

TALL, SHORT_CHARTS = 24, 6

TOO_SMALL = "rankdeck needs a terminal of at least 60x18"

_BATCH_SIZE, _RANKS, _VIEWS = Binding.Group("Batch size"), Binding.Group("Ranks"), Binding.Group("Views")


def _knob(keys: str, action: str, description: str, group: Binding.Group, tooltip: str) -> Binding:
    name = f"knob.{description.lower().replace(' ', '_')}"
    return Binding(keys, action, description, id=name, tooltip=tooltip, group=group)


class RunScreen(Sized, Screen[None]):
    """Shows the state it is given; the other views are built when they are first asked for."""

    app: "RankdeckApp"

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)
    """As Textual's, but that the whole screen is not painted a second time: what has the keys paints itself."""

    LINES_AROUND: ClassVar[int] = 3
    """Header, advice and footer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "app.leave", "Quit", id="app.leave", tooltip="Leave; asks first while the run goes on"),
        Binding(
            "question_mark", "app.help", "Help", key_display="?", id="app.help", tooltip="Every key, and the words"
        ),
        Binding("space", "pause", "Pause", id="run.pause", tooltip="Pause after the batches in flight, or go on"),
        Binding("x", "app.stop", "Stop", id="run.stop", tooltip="Stop the run after the batches in flight"),
        _knob("minus,underscore", "batch_size(False)", "Smaller batches", _BATCH_SIZE, "Halve the batch size"),
        _knob("plus,equals_sign", "batch_size(True)", "Larger batches", _BATCH_SIZE, "Double the batch size"),
        _knob("left_square_bracket", "ranks(-1)", "Fewer ranks", _RANKS, "One active rank less; it keeps its model"),
        _knob("right_square_bracket", "ranks(1)", "More ranks", _RANKS, "One active rank more"),
        *(
            Binding(
                view.key,
                f"view('{view.name}')",
                view.title,
                id=f"view.{view.name}",
                tooltip=view.tooltip,
                group=_VIEWS,
            )
            for view in VIEWS
        ),
        Binding("d", "app.detach", "Detach", id="run.detach", tooltip="Leave; the run goes on"),
        Binding(
            "b", "type_batch_size", "Batch size", id="knob.batch_size", tooltip="Type a batch size, or auto", show=False
        ),
        Binding(
            "a",
            "auto_batch_size",
            "Auto batch size",
            id="knob.auto",
            tooltip="Search for the best batch size on the real work",
            show=False,
        ),
        Binding("i", "advice", "Advice", id="run.advice", tooltip="All that the figures suggest", show=False),
        Binding(
            "s",
            "sweep",
            "Sweep",
            id="run.sweep",
            tooltip="Measure batch sizes and ranks, or end that",
            show=False,
        ),
        Binding(
            "X",
            "stop_now",
            "Stop now",
            id="run.stop_now",
            tooltip="Abandon the batches in flight; asks first",
            show=False,
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.view: ViewName = "overview"
        self._view_chosen = False
        self._moment = Moment(RunState(), OutputBook(), None)

    def compose(self) -> ComposeResult:
        yield Static(TOO_SMALL, id="too-small", markup=False)
        yield Lines(id="header")
        yield Lines(id="notice")
        with Container(id="views"):
            yield entry("overview").build()
        yield Lines(id="advice")
        yield from self.compose_below()
        yield KeyBar()

    def compose_below(self) -> Iterable[Widget]:
        """What else stands above the footer: `LINES_AROUND` counts it."""
        return ()

    def on_mount(self) -> None:
        self._header = self.query_one("#header", Lines)
        self._notice, self._advice = self.query_one("#notice", Lines), self.query_one("#advice", Lines)
        self._overview = self.query_one(Overview)
        self._overview.focus()

    def show(self, moment: Moment) -> None:
        """Show a moment in the view that is seen; the others get it when they are."""
        self._moment = moment
        state = moment.state
        measures = state.sweep is not None and state.config is not None and state.config.sweep is not None
        if measures and not self._view_chosen:
            # Of a run that is a sweep from the beginning, that is what one wants to see.
            self._view_chosen = True
            self.call_later(self.action_view, "sweep")
        if self.is_mounted:
            self._draw()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        if not self.size.width:
            return
        width = self.size.width - 2
        state, _, lost = self._moment
        self._header.show([header_line(state, width)])
        notice = self._notice_lines(width) if lost is None else []
        _show_if_any(self._notice, notice)
        # The timeline says what it shows in words of its own, advice among them.
        advised = self.view != "timeline" and self._room_for_advice(notice)
        _show_if_any(self._advice, self._advise(width) if advised else [])
        as_view(self.query_one(f"#{self.view}")).show(self._moment)

    def _notice_lines(self, width: int) -> list[Line]:
        return notice_lines(self._moment.state, width, keys_of(self.app))

    def _room_for_advice(self, notice: list[Line]) -> bool:
        """A short terminal has some only where nothing would be pushed out of sight."""
        if self.size.height >= TALL:
            return True
        # Of the room that there is without it, so that it does not depend on which line came first.
        room = self.size.height - len(notice) - self.LINES_AROUND + 1
        tables = self._overview.tables_height(self._moment.state, self._moment.lost, self.size.width, room)
        return room - tables >= SHORT_CHARTS + 1

    def _advise(self, width: int) -> list[Line]:
        return advice_lines(self._moment.state, width, keys_of(self.app)) if self._moment.lost is None else []

    # --- keys -----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What steers the run is offered while it can be steered; the knobs, once there are ranks to obey them."""
        if action in ("pause", "stop_now"):
            return self.app.steers
        if action == "sweep":
            # Shares are the ranks' own from the start: there is no line that trials could draw from.
            pull = self.app.run_state.config is None or self.app.run_state.config.dispatch == "pull"
            return pull and self.app.steers and (True if self.app.run_state.ready_at is not None else None)
        if action in ("batch_size", "ranks", "type_batch_size", "auto_batch_size"):
            if self.app.run_state.sweeping:
                return False  # the trials turn these knobs
            return self.app.steers and (True if self.app.run_state.ready_at is not None else None)
        return True

    async def action_batch_size(self, up: bool) -> None:
        command = self.app.knobs.turn_batch_size(self.app.run_state, up=up)
        if command is not None:
            await self._turn(command)
        else:
            self.app.say("No batch is larger." if up else "A batch has one prompt at least.")

    async def action_ranks(self, by: int) -> None:
        command = self.app.knobs.turn_active_ranks(self.app.run_state, by=by)
        if command is not None:
            await self._turn(command)
        else:
            pausing = named("One rank stays active; {run.pause} pauses the run.", keys_of(self.app))
            self.app.say("All ranks are active." if by > 0 else pausing)

    async def _turn(self, command: SetBatchSize | SetActiveRanks) -> None:
        await self.app.ask(command)
        if not self.app.run_state.pending:
            self.app.say("Every prompt has its answer or is in a rank's hands: there is no batch left to change.")

    async def action_auto_batch_size(self) -> None:
        await self._turn(self.app.knobs.set_batch_size(self.app.run_state, None))

    def action_type_batch_size(self) -> None:
        from tui.screens.batch_size import BatchSizeScreen

        self.app.push_screen(BatchSizeScreen(self.app.run_state.batch_size), self._typed)

    async def _typed(self, answer: "Answer | None") -> None:
        if answer is not None:
            wanted = None if answer == "auto" else answer
            await self._turn(self.app.knobs.set_batch_size(self.app.run_state, wanted))

    async def action_pause(self) -> None:
        paused = self.app.run_state.paused
        if paused is not None and paused != ASKED_FOR:
            self.app.say("The run goes on by itself once what pauses it is mended.")
            return
        await self.app.ask(self.app.knobs.turn_pause(self.app.run_state))

    async def action_sweep(self) -> None:
        if self.app.run_state.sweeping:
            from tui.screens.stop_now import EndSweepScreen

            self.app.push_screen(EndSweepScreen(), self._end_sweep)
            return
        from tui.panels.forms.sweep_form import in_run
        from tui.screens.sweep import SweepScreen

        self.app.push_screen(SweepScreen(in_run(self.app.run_state)), self._plan_made)

    async def _end_sweep(self, yes: bool | None) -> None:
        if yes and self.app.run_state.sweeping:
            await self.app.ask(StartSweep(plan=None))

    async def _plan_made(self, plan: SweepPlan | None) -> None:
        if plan is not None:
            await self.app.ask(StartSweep(plan=plan))
            await self.action_view("sweep")

    def action_stop_now(self) -> None:
        from tui.screens.stop_now import StopNowScreen

        self.app.push_screen(StopNowScreen(), self._stop_now)

    async def _stop_now(self, yes: bool | None) -> None:
        if yes:
            await self.app.ask(Stop(now=True))

    def action_advice(self) -> None:
        from tui.screens.advice import AdviceScreen

        self.app.push_screen(AdviceScreen(self.app.run_state))

    async def action_view(self, name: ViewName) -> None:
        """Change to another view, and show it the newest state at once."""
        self._view_chosen = True
        if name == self.view:
            return
        views = self.query_one("#views")
        if not views.query(f"#{name}"):
            await views.mount(entry(name).build())
        self.view = name
        for view in views.children:
            view.display = view.id == name
        as_view(self.query_one(f"#{name}")).take_focus()
        self._draw()


def _show_if_any(widget: Lines, lines: list[Line]) -> None:
    widget.display = bool(lines)
    widget.show(lines)
