"""The screen of a replay: the screen of a run, with keys to play and seek instead of the knobs.

Knows keys and layout; the position is the business of the source, what a moment looks like that of the run's screen.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar

from msgspec.structs import replace
from textual.binding import Binding, BindingType
from textual.message_pump import MessagePump
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from rankdeck.tui.panels.overview.notice import notice_lines
from rankdeck.tui.panels.transport import transport_line
from rankdeck.tui.screens.advice import CLOSE_ADVICE, AdviceScreen
from rankdeck.tui.screens.run import RunScreen
from rankdeck.tui.screens.run_keys import RUN_KEYS
from rankdeck.tui.sources.followed_run import FollowedRun
from rankdeck.tui.sources.replay import ReplaySource
from rankdeck.tui.terminal.repaint import REPAINT_SECONDS
from rankdeck.tui.widgets.deck import HELP_KEYS, Deck
from rankdeck.tui.widgets.lines import Lines
from rankdeck.tui.words.status import ASKED_FOR
from rankdeck.tui.words.text import Line

STEP, SMALL_STEP = 10, 1

_SPEED, _SEEK = Binding.Group("Speed"), Binding.Group(f"{STEP} s")

_NOT_INHERITED = ("knob.", "run.pause", "run.detach", "run.stop", "run.sweep", "run.tour", "app.")
"""Prefixes of the ids of a run's keys that a replay does not have, or declares itself."""


def _seek(keys: str, action: str, description: str, tooltip: str, *, show: bool = False) -> Binding:
    name = f"replay.{description.lower().replace(' ', '_')}"
    # Views use the arrow keys too, but nothing in them moves sideways: the keys of the replay come first.
    group, priority = (_SEEK, True) if show else (None, False)
    return Binding(keys, action, description, id=name, tooltip=tooltip, group=group, show=show, priority=priority)


PLAYING_KEYS: list[BindingType] = [
    Binding("space", "play", "Pause", id="replay.play", tooltip="Pause, or go on; at the end, from the beginning"),
    _seek("left", f"seek(-{STEP})", "Back", f"{STEP} seconds back", show=True),
    _seek("right", f"seek({STEP})", "Forward", f"{STEP} seconds forward", show=True),
    Binding("minus,underscore", "speed(False)", "Slower", id="replay.slower", tooltip="Half the speed", group=_SPEED),
    Binding("plus,equals_sign", "speed(True)", "Faster", id="replay.faster", tooltip="Twice the speed", group=_SPEED),
    _seek("comma,shift+left", f"seek(-{SMALL_STEP})", "A little back", f"{SMALL_STEP} second back"),
    _seek("full_stop,shift+right", f"seek({SMALL_STEP})", "A little forward", f"{SMALL_STEP} second forward"),
    _seek("less_than_sign,0", "edge(0)", "To the beginning", "To the beginning"),
    _seek("greater_than_sign,9", "edge(1)", "To the end", "To the end, where the summary is"),
]
"""Playing and seeking; for the screen of a replay, and for a dialog above it that shows a moment of the run."""


class Playing(MessagePump):
    """The actions of `PLAYING_KEYS`, mixed into a screen."""

    app: Deck
    replay: ReplaySource

    def show_position(self) -> None:
        """Show the place in the replay at once, if this screen does."""

    def action_play(self) -> None:
        self.replay.play_or_pause()
        self.show_position()

    def action_seek(self, seconds: float) -> None:
        self.replay.seek_by(seconds)
        self.show_position()

    def action_edge(self, end: int) -> None:
        self.replay.seek_to(self.replay.journal.length if end else 0.0)
        self.show_position()

    def action_speed(self, up: bool) -> None:
        if not self.replay.change_speed(up=up):
            self.app.say("It cannot be played faster." if up else "It cannot be played slower.")
        self.show_position()


class ReplayAdvice(Playing, AdviceScreen, inherit_bindings=False):
    """The advice at a moment of the run: the moment can be changed, the run cannot."""

    app: Deck

    BINDINGS: ClassVar[list[BindingType]] = [CLOSE_ADVICE, *PLAYING_KEYS]

    def __init__(self, followed: FollowedRun, lines: Callable[[int], list[Line]], replay: ReplaySource) -> None:
        super().__init__(followed, lines)
        self.replay = replay

    @property
    def has_keys(self) -> bool:
        return True


class ReplayScreen(Playing, RunScreen, inherit_bindings=False):
    """A moment of a run, and its place in the replay."""

    LINES_AROUND = RunScreen.LINES_AROUND + 1

    BINDINGS: ClassVar[list[BindingType]] = [
        *Screen.BINDINGS,
        Binding("q", "app.leave", "Quit", id="app.leave", tooltip="Leave the replay"),
        *HELP_KEYS,
        *PLAYING_KEYS,
        *(key for key in RUN_KEYS if isinstance(key, Binding) and not (key.id or "").startswith(_NOT_INHERITED)),
    ]

    def __init__(self, followed: FollowedRun, replay: ReplaySource, stops: str) -> None:
        """`stops` says why the journal stops before the run's end, if it does."""
        super().__init__(followed)
        self.replay, self._stops = replay, stops

    def compose_below(self) -> Iterable[Widget]:
        yield Lines(id="transport")

    def on_mount(self) -> None:
        super().on_mount()
        self._transport = self.query_one("#transport", Lines)
        self.set_interval(REPAINT_SECONDS, self._beat)

    def _beat(self) -> None:
        if not self.app.backlog:
            self.show_position()

    def _draw(self) -> None:
        super()._draw()
        self.show_position()

    def show_position(self) -> None:
        if self.size.width:
            line = transport_line(self.replay.transport, self.size.width - 2, self._stops)
            self._transport.show([line])

    def _notice_lines(self, width: int) -> list[Line]:
        state = self._frame.state
        if state.paused == ASKED_FOR:
            # The words for a live run name the key that resumes it; here that key plays the replay.
            lines = notice_lines(replace(state, paused=None), width)
            return [*lines, (("‖ the run was paused here, as asked for", "warn"),)]
        return notice_lines(state, width)

    def new_advice_dialog(self) -> AdviceScreen:
        return ReplayAdvice(self.followed, self._all_advice, self.replay)

    # --- keys -----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In a text field the arrow keys move the cursor."""
        return not isinstance(self.focused, Input) if action == "seek" else super().check_action(action, parameters)
