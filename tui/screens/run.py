"""The screen of a run: the header line, one of the views, and the actions of its keys. Computes no figures."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.reactive import Reactive
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from rankdeck.runner.protocol import StartSweep, Stop, TurnRefused
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.frame import Frame, ViewName
from rankdeck.tui.panels.outputs.listing import Selection
from rankdeck.tui.panels.overview.advice import advice_lines, all_advice
from rankdeck.tui.panels.overview.header import header_line
from rankdeck.tui.panels.overview.notice import notice_lines, silence_lines
from rankdeck.tui.panels.tour import tour_lines
from rankdeck.tui.screens.run_keys import RUN_KEYS
from rankdeck.tui.screens.sized import Sized
from rankdeck.tui.screens.steering import Steering
from rankdeck.tui.screens.views import as_view, entry
from rankdeck.tui.settings import keys
from rankdeck.tui.sources.followed_run import FollowedRun
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.key_bar import KeyBar
from rankdeck.tui.widgets.lines import Lines
from rankdeck.tui.widgets.overview import Overview
from rankdeck.tui.words.text import Line
from rankdeck.tui.words.turn import refusal_words

if TYPE_CHECKING:
    from rankdeck.tui.screens.advice import AdviceScreen
    from rankdeck.tui.screens.answer_files import Target
    from rankdeck.tui.widgets.outputs import OutputsView

TALL, SHORT_CHARTS = 24, 6

TOO_SMALL = "rankdeck needs a terminal of at least 60x18"


class RunScreen(Steering, Sized, Screen[None]):
    """Shows the state it is given; all views but the Overview are built when they are first asked for."""

    app: Deck

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)
    """As in Textual, but a new focus does not repaint the whole screen: the focused widget paints itself."""

    LINES_AROUND: ClassVar[int] = 3
    """Header, advice and footer."""

    BINDINGS: ClassVar[list[BindingType]] = RUN_KEYS

    def __init__(self, followed: FollowedRun) -> None:
        super().__init__()
        self.followed = followed
        self.view: ViewName = "overview"
        self._view_chosen = False
        self._frame = Frame(RunState(), followed.book, None, steers=True)
        self._refusal: TurnRefused | None = None
        self._advice_dialog: AdviceScreen | None = None

    def compose(self) -> ComposeResult:
        yield Static(TOO_SMALL, id="too-small", markup=False)
        yield Lines(id="header")
        yield Lines(id="notice")
        with Container(id="views"):
            yield entry("overview").build(self)
        yield Lines(id="advice")
        yield from self.compose_below()
        yield KeyBar()

    def compose_below(self) -> Iterable[Widget]:
        """Further widgets above the footer, which `LINES_AROUND` counts."""
        return ()

    def on_mount(self) -> None:
        self._header = self.query_one("#header", Lines)
        self._notice, self._advice = self.query_one("#notice", Lines), self.query_one("#advice", Lines)
        self._overview = self.query_one(Overview)
        self._overview.focus()

    def show(self, frame: Frame) -> None:
        """Show a frame in the current view; the others get the newest one when they are shown."""
        self._frame = frame
        state = frame.state
        self._say_refusal(state)
        measures = state.sweep is not None and state.config is not None and state.config.sweep is not None
        if measures and not self._view_chosen:
            # A run that was started as a sweep opens in the Sweep view.
            self._view_chosen = True
            self.call_later(self.action_view, "sweep")
        if self.is_mounted:
            self._draw()
        if self._advice_dialog is not None and self._advice_dialog.is_mounted:
            self._advice_dialog.show()

    def _say_refusal(self, state: RunState) -> None:
        """Say once why a key changed nothing: views other than the Overview, and a small Overview, have no line for it.

        Only to those who may have pressed it.
        """
        before, self._refusal = self._refusal, state.refusal
        if state.refusal != before and self.followed.steers and self.is_mounted:
            for words in refusal_words(state)[:1]:
                self.app.say(words)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        if not self.size.width or self.has_class("-too-narrow") or self.has_class("-too-short"):
            return  # nothing of it would be shown; a larger terminal draws again
        width = self.size.width - 2
        state = self._frame.state
        self._header.show([header_line(state, width)])
        notice = self._notices(width) if self._frame.lost is None else []
        _show_if_any(self._notice, notice)
        _show_if_any(self._advice, self._tour(width) or (self._advise(width) if self._advised(notice) else []))
        as_view(self.query_one(f"#{self.view}")).show(self._frame)

    def _notices(self, width: int) -> list[Line]:
        """Why nothing comes from the run, if so, and what holds it up."""
        frame = self._frame
        held_up = self._notice_lines(width) if frame.lost is None else []
        return [*silence_lines(frame.lost or frame.silence, width), *held_up]

    def _notice_lines(self, width: int) -> list[Line]:
        return notice_lines(self._frame.state, width, self.app.keys)

    def _tour(self, width: int) -> list[Line]:
        """What the tour says, in every view: an audience follows it here. After the end the results say more."""
        if self._frame.lost is not None or self._frame.state.ended is not None:
            return []
        return tour_lines(self._frame.tour, width, self.app.keys, under_way=self.followed.tour.under_way)

    def _advised(self, notice: list[Line]) -> bool:
        # The Timeline view has its own words for what it shows, advice included.
        return self.view != "timeline" and self._room_for_advice(notice)

    def _room_for_advice(self, notice: list[Line]) -> bool:
        """A short terminal shows advice only if it pushes nothing out of sight."""
        if self.size.height >= TALL:
            return True
        # Counted from the room without advice, so that the answer does not depend on whether there is some now.
        room = self.size.height - len(notice) - self.LINES_AROUND + 1
        tables = self._overview.tables_height(self._frame.state, self._frame.lost, self.size.width, room)
        return room - tables >= SHORT_CHARTS + 1

    def _advise(self, width: int) -> list[Line]:
        if self._frame.lost is not None:
            return []
        return advice_lines(self._frame.state, width, self.app.keys, steers=self._frame.steers)

    # --- keys -----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A sweep needs ranks that are ready, and a queue to take prompts from."""
        if action == "stop_now":
            return self.followed.steers
        if action == "sweep":
            state = self.followed.state
            # With `split`, ranks have their shares from the start: there is no queue for trials to take prompts from.
            pull = state.config is None or state.config.dispatch == "pull"
            return pull and self.followed.steers and (True if state.ready_at is not None else None)
        return super().check_action(action, parameters)

    async def action_sweep(self) -> None:
        if self.followed.state.sweeping:
            from rankdeck.tui.screens.questions import EndSweepScreen

            self.app.push_screen(EndSweepScreen(), self._end_sweep)
            return
        from rankdeck.tui.panels.forms.sweep_form import in_run
        from rankdeck.tui.screens.sweep import SweepScreen

        self.app.push_screen(SweepScreen(in_run(self.followed.state)), self._plan_made)

    async def _end_sweep(self, answer: str | None) -> None:
        if answer == "stop" and self.followed.state.sweeping:
            await self.followed.ask(StartSweep(plan=None))

    async def _plan_made(self, plan: SweepPlan | None) -> None:
        if plan is not None:
            await self.followed.ask(StartSweep(plan=plan))
            await self.action_view("sweep")

    def action_stop_now(self) -> None:
        from rankdeck.tui.screens.questions import StopNowScreen

        self.app.push_screen(StopNowScreen(), self._stop_now)

    async def _stop_now(self, answer: str | None) -> None:
        if answer == "stop":
            await self.followed.ask(Stop(now=True))

    def action_advice(self) -> None:
        self._advice_dialog = self.new_advice_dialog()
        self.app.push_screen(self._advice_dialog, self._advice_read)

    def new_advice_dialog(self) -> "AdviceScreen":
        """The dialog with all advice, as it is at any time, and with the keys that act on it."""
        from rankdeck.tui.screens.advice import AdviceScreen

        return AdviceScreen(self.followed, self._all_advice)

    def _advice_read(self, _: None) -> None:
        self._advice_dialog = None

    def _all_advice(self, width: int) -> list[Line]:
        """What holds the run up, what the tour says, then all advice: each answers a key that works in the dialog."""
        above = [*self._notices(width), *self._tour(width)]
        advice = all_advice(self._frame.state, width, self.app.keys, steers=self._frame.steers)
        return [*above, (), *advice] if above else advice

    def action_help(self) -> None:
        from rankdeck.tui.screens.glossary import words_of
        from rankdeck.tui.screens.help import HelpScreen

        described = keys.described(self, self.app.reworded)
        self.app.push_screen(HelpScreen(described, words_of(self.view), f"Help: {entry(self.view).title}"))

    async def action_view(self, name: ViewName) -> None:
        """Change to another view, and show the newest state in it at once."""
        self._view_chosen = True
        if name == self.view:
            return
        views = self.query_one("#views")
        if not views.query(f"#{name}"):
            await views.mount(entry(name).build(self))
        self.view = name
        for view in views.children:
            view.display = view.id == name
        as_view(self.query_one(f"#{name}")).take_focus()
        self._draw()

    # --- what the Outputs view asks for ---------------------------------------------------------

    def open_answer(self, view: "OutputsView") -> None:
        from rankdeck.tui.screens.answer import AnswerScreen

        self.app.push_screen(AnswerScreen(view.selection, view.batch_seconds), lambda _: view.moved())

    def export_answers(self, selection: Selection) -> None:
        from rankdeck.tui.screens.export import export, export_screen

        def write(to: "Target | None") -> None:
            if to is not None:
                self.run_worker(export(self.app, self.followed, selection, to), group="export")

        self.app.push_screen(export_screen(self.followed.state, selection), write)


def _show_if_any(widget: Lines, lines: list[Line]) -> None:
    widget.display = bool(lines)
    widget.show(lines)
