"""The dialog for a sweep's settings: fields checked as they are typed, and what the sweep will do.

Knows the form as data and shows it; starting the sweep is up to the caller.
"""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label

from rankdeck.runner.protocol.sweep_plan import SweepPlan
from rankdeck.tui.panels.forms.run_form import Field
from rankdeck.tui.panels.forms.sweep_form import SweepWork, first_values, happens, promise, read_plan
from rankdeck.tui.settings.keys import steps
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.fields import Choice, TextField
from rankdeck.tui.words.sweep import repeats_warning
from rankdeck.tui.words.text import visible


class SweepScreen(ModalScreen[SweepPlan | None]):
    """Asks what to measure; returns None when left with escape."""

    app: Deck

    DEFAULT_CSS = """
    SweepScreen #dialog { scrollbar-size-vertical: 1; }
    SweepScreen #sweep-promise { margin-top: 1; }
    SweepScreen.-short #sweep-promise { margin-top: 0; }
    SweepScreen #sweep-promise.-wrong { color: $error; }
    SweepScreen #sweep-happens { color: $quiet; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="sweep.close", tooltip="Measure nothing"),
        *steps("sweep", "tab", "shift+tab", "next", "previous", at_once=True),
        *steps("sweep", "down", "up", "below", "above"),
    ]

    def __init__(self, work: SweepWork) -> None:
        super().__init__()
        self._work = work
        values = first_values(work)
        self._entries = {field.setting: _entry(field, values[field.setting]) for field in work.fields}

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="dialog", can_focus=False) as box:
            box.border_title = "Sweep"
            box.border_subtitle = self.app.hint("enter starts it, tab next field, {sweep.close} closes")
            for field in self._work.fields:
                with Horizontal(classes="field"):
                    yield Label(field.label, classes="name", markup=False)
                    yield self._entries[field.setting]
                yield Label(field.hint, id=f"sweep-{field.setting}-said", classes="said", markup=False)
            yield Label("", id="sweep-promise", markup=False)
            yield Label("", id="sweep-happens", markup=False)

    def on_mount(self) -> None:
        self._entries["batch_sizes"].focus()
        self._check()

    def action_close(self) -> None:
        self.dismiss(None)

    @on(Input.Changed)
    @on(Choice.Changed)
    def _typed(self) -> None:
        self._check()

    @on(Input.Submitted)
    @on(Choice.Submitted)
    def _submitted(self) -> None:
        plan = self._check()
        if plan is not None:
            self.dismiss(plan)

    def _check(self) -> SweepPlan | None:
        """Show each mistake at its field, or what the plan will take and how much its repeats can tell."""
        values = {name: entry.value for name, entry in self._entries.items()}
        plan, problems = read_plan(values, self._work)
        said = {problem.setting: problem.message for problem in reversed(problems)}
        for field in self._work.fields:
            label = self.query_one(f"#sweep-{field.setting}-said", Label)
            message = said.pop(field.setting, None)
            warning = repeats_warning(plan.repeats) if plan is not None and field.setting == "repeats" else ""
            label.set_class(message is not None, "-wrong")
            label.set_class(bool(warning), "-few")
            label.update(f"✗ {visible(message)}" if message is not None else f"! {warning}" if warning else field.hint)
        promised = self.query_one("#sweep-promise", Label)
        others = "; ".join(f"{name.replace('_', ' ')}: {message}" for name, message in said.items())
        promised.set_class(bool(others), "-wrong")
        words = "" if plan is None else promise(plan, self._work)
        promised.update(f"✗ {visible(others)}" if others else words)
        self.query_one("#sweep-happens", Label).update(happens(values, self._work))
        return plan


def _entry(field: Field, value: str) -> Choice | TextField:
    name = f"sweep-{field.setting}"
    return Choice(field.options, value, id=name) if field.options else TextField(value, id=name, compact=True)
