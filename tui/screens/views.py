"""The views of a run: the name, the key and the widget of each; a widget is built when it is first needed.

A view shows a Frame and knows which of its widgets takes the focus. What it draws is its own business.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from textual.widget import Widget

from rankdeck.tui.panels.frame import View, ViewName

if TYPE_CHECKING:
    from rankdeck.tui.widgets.outputs import AnswerScreens


class ViewEntry(NamedTuple):
    """A view in the list; `build` makes its widget, whose id is the view's name, for the screen that it is on."""

    name: ViewName
    key: str
    title: str
    tooltip: str
    build: "Callable[[AnswerScreens], Widget]"


def _overview(screen: "AnswerScreens") -> Widget:
    from rankdeck.tui.widgets.overview import Overview

    return Overview(id="overview")


def _outputs(screen: "AnswerScreens") -> Widget:
    from rankdeck.tui.widgets.outputs import OutputsView

    return OutputsView(screen, id="outputs")


def _timeline(screen: "AnswerScreens") -> Widget:
    from rankdeck.tui.widgets.timeline import TimelineView

    return TimelineView(id="timeline")


def _sweep(screen: "AnswerScreens") -> Widget:
    from rankdeck.tui.widgets.sweep import SweepView

    return SweepView(id="sweep")


def _log(screen: "AnswerScreens") -> Widget:
    from rankdeck.tui.widgets.log import LogView

    return LogView(id="log")


VIEWS: tuple[ViewEntry, ...] = (
    ViewEntry("overview", "1", "Overview", "Speed, progress, GPUs, ranks", _overview),
    ViewEntry("outputs", "2", "Outputs", "Every answer as it arrives", _outputs),
    ViewEntry("timeline", "3", "Timeline", "What each rank did when, batch by batch", _timeline),
    ViewEntry("sweep", "4", "Sweep", "A sweep: trials of batch sizes and numbers of ranks", _sweep),
    ViewEntry("log", "5", "Log", "What the supervisor and the ranks say", _log),
)


def entry(name: ViewName) -> ViewEntry:
    return next(view for view in VIEWS if view.name == name)


def as_view(widget: Widget) -> View:
    """A view's widget, typed as a View."""
    return cast("View", widget)
