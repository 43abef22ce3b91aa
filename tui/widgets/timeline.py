"""The Timeline view: which part of the run is visible, and where the cursor is. Draws no lines itself."""

from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Click

from rankdeck.runner.advice.findings import Finding, findings
from rankdeck.runner.advice.segments import Segment, segments, slowest_batch
from rankdeck.runner.state import RunState
from rankdeck.tui.panels.frame import Frame
from rankdeck.tui.panels.timeline.page import plan, shown_rounds, spot, timeline_lines
from rankdeck.tui.panels.timeline.window import CLOSEST_SECONDS, Look, at_cursor, tick_words, window
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.lines import Panel

KEYS = (
    "{timeline.earlier} {timeline.later} batch, {timeline.down} {timeline.up} rank, {timeline.finding} stands out, "
    "{timeline.zoom_in} {timeline.zoom_out} zoom, {timeline.pan_left} {timeline.pan_right} pan, "
    "{timeline.whole} whole, {timeline.follow} follow"
)

LEAST_SECONDS = 0.05
"""The cursor skips gaps shorter than this: there is always one between two batches of a rank."""


def _key(keys: str, action: str, name: str, description: str, tooltip: str) -> Binding:
    return Binding(keys, action, description, id=f"timeline.{name}", tooltip=tooltip, show=False)


class TimelinePanel(Panel, inherit_css=False):
    """A panel that fills its view; it repeats the looks of a panel, which it does not inherit."""

    SCOPED_CSS = False
    DEFAULT_CSS: ClassVar[str] = """
    TimelinePanel {
        height: 1fr;
        border: round $border;
        border-title-color: $quiet;
        border-title-style: bold;
        border-subtitle-color: $quiet;
        padding: 0 1;
    }
    .-narrow TimelinePanel, .-short TimelinePanel { border: none; border-top: solid $border; }
    """


class TimelineView(Vertical, can_focus=True):
    """A panel with one time axis; the keys move a cursor from batch to batch and from lane to lane."""

    app: Deck

    # In a replay, left and right seek in the journal.
    BINDINGS: ClassVar[list[BindingType]] = [
        _key("h,left", "batch(-1)", "earlier", "Earlier batch", "The batch or gap before, in this lane"),
        _key("l,right", "batch(1)", "later", "Later batch", "The batch or gap after, in this lane"),
        _key("k,up", "lane(-1)", "up", "Lane above", "The rank above, at the same moment"),
        _key("j,down", "lane(1)", "down", "Lane below", "The rank below, at the same moment"),
        _key("pageup", "lane(-8)", "page_up", "Lanes up", "Eight ranks up"),
        _key("pagedown", "lane(8)", "page_down", "Lanes down", "Eight ranks down"),
        _key("g,home", "edge(0)", "first", "First batch", "The first batch of this lane"),
        _key("G,end", "edge(1)", "last", "Last batch", "The last batch of this lane"),
        _key("z", "zoom(1)", "zoom_in", "Zoom in", "Half as many seconds, around the cursor"),
        _key("Z", "zoom(-1)", "zoom_out", "Zoom out", "Twice as many seconds"),
        _key("H", "pan(-1)", "pan_left", "Pan left", "Half a width back in time"),
        _key("L", "pan(1)", "pan_right", "Pan right", "Half a width on in time"),
        _key("n", "finding", "finding", "What stands out", "To the next rank that the sentences above are about"),
        _key("w", "whole", "whole", "Whole run", "The whole run, with or without the loading before it"),
        _key("f", "follow", "follow", "Follow", "Follow the run; the cursor stands on the newest batch"),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.look = Look()
        self._state: RunState | None = None
        self._found: tuple[object, tuple[Finding, ...]] = (None, ())

    def compose(self) -> ComposeResult:
        yield TimelinePanel("Timeline", id="timeline-panel")

    def on_mount(self) -> None:
        self._panel = self.query_one("#timeline-panel", Panel)
        self._panel.border_subtitle = self.app.hint(KEYS)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def show(self, frame: Frame) -> None:
        """Show a frame; lines that would look the same are not painted."""
        self._state = frame.state
        self._draw()

    def _draw(self) -> None:
        if self._state is not None:
            make = partial(timeline_lines, self._state, self._findings(self._state), self.look, keys=self.app.keys)
            self._panel.draw(make, self._title(self._state))

    def take_focus(self) -> None:
        self.focus()

    def on_click(self, event: Click) -> None:
        """Move the cursor to the batch that was clicked on."""
        inside = event.get_content_offset(self._panel)
        if self._state is None or inside is None:
            return
        found = spot(self._state, self.look, *self._panel.content_size, *inside)
        if found is not None and found[0] < len(self._state.timeline.lanes):
            self._turn(rank=found[0], at=found[1])

    def _findings(self, state: RunState) -> tuple[Finding, ...]:
        """The findings, computed again only when a batch began or ended: a tick changes none of them."""
        about = (state.timeline.lanes, state.marks, state.ended, state.done >= state.prompts)
        before, found = self._found
        same = isinstance(before, tuple) and all(one is other for one, other in zip(before, about, strict=True))
        if not same:
            found = findings(state)
            self._found = about, found
        return found

    def _title(self, state: RunState) -> str:
        parts = ["Timeline"]
        look, width, height = self.look, *self._panel.content_size
        lanes = len(state.timeline.lanes)
        if lanes and height:
            seen = plan(state, look, width, height, bool(shown_rounds(state)))
            if seen.lanes < lanes:
                parts.append(f"ranks {seen.first} to {seen.first + seen.lanes - 1} of {lanes}")
        if look.zoom or look.left is not None:
            shown = window(state, look)
            edges = [tick_words(round(edge - shown.zero, 1)) for edge in (shown.left, shown.right)]
            parts.append(f"{edges[0]} to {edges[1]}")
        elif state.ended is None and lanes:
            parts.append("following the run")
        return ", ".join(parts)

    # --- keys -----------------------------------------------------------------------------------

    def _turn(self, **changes: object) -> None:
        self.look = self.look._replace(**changes)  # type: ignore[arg-type]
        self._draw()

    def _mine(self) -> list[Segment]:
        return segments(self._state, self.look.rank) if self._state is not None else []

    def action_batch(self, by: int) -> None:
        mine = self._mine()
        here = at_cursor(mine, self.look.at)
        if here is None:
            return
        there = here + by
        while 0 <= there < len(mine) and mine[there].seconds < LEAST_SECONDS and not mine[there].live:
            there += by
        if 0 <= there < len(mine):
            self._stand_on(mine[there], newest=there == len(mine) - 1)

    def action_edge(self, end: int) -> None:
        worked = [segment for segment in self._mine() if segment.kind in ("batch", "stint")]
        if worked:
            self._stand_on(worked[-1 if end else 0])

    def _stand_on(self, segment: Segment, *, newest: bool = False) -> None:
        """Move the cursor to a segment, and scroll it into view."""
        assert self._state is not None
        at = (segment.began + segment.ended) / 2
        shown = window(self._state, self.look)
        left = self.look.left
        if not shown.left <= at <= shown.right:
            left = at - shown.seconds / 2
        self._turn(at=None if newest and segment.live else at, left=left)

    def action_lane(self, by: int) -> None:
        if self._state is not None and self._state.timeline.lanes:
            last = len(self._state.timeline.lanes) - 1
            self._turn(rank=max(0, min(last, self.look.rank + by)))

    def action_zoom(self, by: int) -> None:
        if self._state is None:
            return
        shown = window(self._state, self.look)
        zoom = max(0, self.look.zoom + by)
        if by > 0 and shown.seconds / 2 < CLOSEST_SECONDS:
            return
        if zoom == 0:
            self._turn(zoom=0, left=None)
            return
        left = self.look.left
        if self.look.at is not None:
            seconds = shown.whole / 2**zoom
            left = max(shown.first, min(self.look.at - seconds / 2, shown.first + shown.whole - seconds))
        self._turn(zoom=zoom, left=left)

    def action_pan(self, by: int) -> None:
        if self._state is None:
            return
        shown = window(self._state, self.look)
        most = max(0.0, shown.first + shown.whole - shown.seconds)
        self._turn(left=max(0.0, min(most, shown.left + by * shown.seconds / 2)))

    def action_whole(self) -> None:
        shown_whole = self.look.zoom == 0 and self.look.left is None
        self._turn(zoom=0, left=None, loading=not self.look.loading if shown_whole else self.look.loading)

    def action_finding(self) -> None:
        """Go to the next rank that has a finding; if it is slow, to its slowest batch."""
        found = {rank: each.kind for each in reversed(self._found[1]) for rank in each.ranks}
        if not found:
            return
        self._turn(rank=next((rank for rank in sorted(found) if rank > self.look.rank), min(found)))
        if found[self.look.rank] == "slow rank" and (slowest := slowest_batch(self._mine())) is not None:
            self._stand_on(slowest)

    def action_follow(self) -> None:
        self._turn(at=None, left=None)
