"""An application that keeps pace with its terminal: which resizes it applies, and whether it repaints."""

from dataclasses import dataclass
from typing import Any

import pytest
from textual.app import App
from textual.events import Event, Resize
from textual.geometry import Size

from rankdeck.tui.terminal import paced
from rankdeck.tui.terminal.driver import RESIZE_SECONDS, Resizes
from rankdeck.tui.terminal.paced import PacedApp
from rankdeck.tui.terminal.repaint import REPAINT_SECONDS


class Driver:
    """A driver that counts, with a backlog of our choice."""

    written = 0
    backlog = 0


def resize(columns: int) -> Resize:
    return Resize(Size(columns, 24), Size(columns, 24))


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The events that have come as far as Textual."""
    events: list[Event] = []

    async def on_event(self: Any, event: Event) -> None:
        events.append(event)

    monkeypatch.setattr(App, "on_event", on_event)
    return events


class Paced(PacedApp[None]):
    """Keeps what it was asked to do later."""

    def __init__(self, driver: Any) -> None:
        super().__init__()
        self._driver = driver
        self.later: list[tuple[float, Any]] = []

    def set_timer(self, delay: float, callback: Any = None, **_: Any) -> Any:
        self.later.append((delay, callback))


async def test_a_terminal_that_keeps_up_gets_every_resize_and_every_other_event_at_once(applied: list[Event]) -> None:
    app, events = Paced(Driver()), [resize(80), Event(), resize(90)]
    for event in events:
        await app.on_event(event)
    assert applied == events
    assert app.later == []


async def test_a_terminal_that_is_behind_gets_the_newest_resize_once_and_later(applied: list[Event]) -> None:
    driver = Driver()
    app, other = Paced(driver), Event()
    driver.backlog = 1
    sizes = [resize(80), resize(90), resize(100)]
    for event in (*sizes, other):
        await app.on_event(event)
    assert applied == [other], "only resizes wait"
    ((delay, later),) = app.later
    assert delay == REPAINT_SECONDS
    await later()
    assert applied == [other, sizes[-1]]
    await later()
    assert applied == [other, sizes[-1]]


async def test_a_resize_that_can_be_applied_at_once_takes_the_place_of_one_that_waits(applied: list[Event]) -> None:
    driver = Driver()
    app = Paced(driver)
    driver.backlog = 1
    await app.on_event(resize(80))
    driver.backlog = 0
    newest = resize(90)
    await app.on_event(newest)
    ((_, later),) = app.later
    await later()
    assert applied == [newest], "the older size does not come back"


def test_the_backlog_is_the_drivers_and_none_where_it_counts_no_bytes() -> None:
    driver = Driver()
    driver.backlog = 7
    assert Paced(driver).backlog == 7
    assert Paced(object()).backlog == 0


def test_it_repaints_at_once_and_then_by_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(paced.time, "monotonic", lambda: now[0])
    driver = Driver()
    app = Paced(driver)
    assert app.may_repaint()
    assert not app.may_repaint(), "it was painted just now"
    now[0] += REPAINT_SECONDS
    driver.backlog = 1
    assert not app.may_repaint(), "the terminal has yet to take the last one"
    driver.backlog = 0
    assert app.may_repaint()
    now[0] += REPAINT_SECONDS
    driver.written = 100_000
    assert not app.may_repaint(), "so many bytes are more than the line is given"
    for uncounted in range(4):
        now[0] += REPAINT_SECONDS
        assert Paced(object()).may_repaint(), uncounted


@dataclass
class Due:
    """A call that a loop is to make."""

    at: float
    call: Any
    given: tuple[Any, ...]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A loop with a clock of its own; what is due is called by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[Due] = []
        self.from_threads = 0

    def time(self) -> float:
        return self.now

    def call_soon_threadsafe(self, call: Any, *given: Any) -> None:
        self.from_threads += 1
        call(*given)

    def call_at(self, at: float, call: Any, *given: Any) -> Due:
        self.due.append(Due(at, call, given))
        return self.due[-1]

    def run(self) -> list[float]:
        """Call what was not cancelled; returns when each was due."""
        calls, self.due = [due for due in self.due if not due.cancelled], []
        for due in calls:
            self.now = max(self.now, due.at)
            due.call(*due.given)
        return [due.at for due in calls]


def test_the_first_resize_comes_at_once_and_of_the_next_ones_the_last_a_moment_later() -> None:
    loop = Loop()
    resizes = Resizes(loop)  # type: ignore[arg-type]
    seen: list[str] = []
    resizes.soon(lambda: seen.append("first"))
    (at,) = loop.run()
    assert at <= 100.0
    for name in ("second", "third", "fourth"):
        resizes.soon(lambda name=name: seen.append(name))  # type: ignore[misc]
    assert loop.run() == [100.0 + RESIZE_SECONDS]
    assert seen == ["first", "fourth"]
    assert loop.from_threads == 4, "Textual calls from a thread of its own"
    resizes.soon(lambda: seen.append("fifth"))
    assert loop.run() == [100.0 + 2 * RESIZE_SECONDS]
