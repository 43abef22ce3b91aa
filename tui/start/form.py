"""The form of a new run: a field for every setting with its hint or its mistake, the memory needed, Launch.

Knows the table of fields and shows what it is told. Checks nothing and reads no file.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Grid, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Button, Input, Label

from rankdeck.runner.inputs.memory_estimate import MemoryEstimate
from rankdeck.runner.protocol.config import Problem
from rankdeck.tui.panels.forms.remarks import MORE_SETTINGS, Remark, remarks, unseen_mistakes, unseen_settings
from rankdeck.tui.panels.forms.run_form import ALL, FIELDS, FIRST_VALUES, MORE, Field, set_values
from rankdeck.tui.panels.forms.start_lines import memory_lines, taken_words
from rankdeck.tui.settings.hint_keys import key_of
from rankdeck.tui.start.way_back import Filled
from rankdeck.tui.widgets.deck import Deck
from rankdeck.tui.widgets.fields import Choice, TextField
from rankdeck.tui.widgets.lines import Lines
from rankdeck.tui.words.text import cut, visible, wrap

TITLE = "A new run"

TALL = 24
"""Rows: a shorter terminal shows less about memory."""

ROOM_FOR_MORE = (120, 38)
"""Columns and rows: a terminal of this size shows the further settings from the beginning."""


class NewRun(VerticalScroll, can_focus=False):
    """The fields. Those that were touched by hand are not filled in by the machine."""

    app: Deck

    DEFAULT_CSS = """
    NewRun {
        border: round $border;
        border-title-color: $quiet;
        border-title-style: bold;
        border-subtitle-color: $quiet;
        padding: 0 1;
        height: 100%;
    }
    NewRun:focus-within { border: round $primary; border-title-color: $primary; }
    NewRun .setting-box { height: auto; }
    NewRun .setting { height: 1; }
    NewRun .setting-name { width: 12; color: $quiet; }
    NewRun Input.-textual-compact { width: 1fr; padding: 0 1; background: $panel; }
    NewRun Input:focus { background: $block-cursor-background; color: $block-cursor-foreground; }
    NewRun .setting-said { margin-left: 13; width: 1fr; height: auto; color: $quiet; }
    NewRun .-wrong { color: $error; }
    NewRun .-doubtful { color: $warning; }
    NewRun #memory { margin-top: 1; }
    NewRun #more { display: none; height: auto; margin-top: 1; }
    NewRun.-more #more { display: block; }
    NewRun #more-fields { height: auto; grid-size: 1; grid-gutter: 0 3; grid-rows: auto; }
    NewRun #more .setting-name { width: 15; }
    NewRun #more .setting-said { display: none; margin-left: 2; }
    NewRun #more .setting-box:focus-within .setting-said, NewRun #more .setting-said.-wrong { display: block; }
    NewRun #launching { height: auto; margin-top: 1; }
    NewRun #launch-said { width: 1fr; height: auto; margin-left: 2; color: $quiet; }
    """

    class Changed(Message):
        """A setting was changed: by hand, or with an empty name if it was filled in."""

        def __init__(self, setting: str) -> None:
            super().__init__()
            self.setting = setting

    class Submitted(Message):
        """Enter was pressed in a field, or Launch."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.touched: set[str] = set()
        """The settings that were typed or chosen here."""
        self.settings_of: Path | None = None
        """The directory of the run whose settings are in the form."""
        self._filled: dict[str, str] = dict(FIRST_VALUES)
        self._hidden: dict[str, str] = {}
        """Text with characters that cannot be shown in a field, by what is shown instead."""
        self._remarks: dict[str, Remark] = {}
        self._estimate: MemoryEstimate | str | None = None
        self._taken_from = ""
        self._defaults: Mapping[str, str] = {}
        self.has_taken = False
        """Whether some setting in the form was taken from a run."""

    def compose(self) -> ComposeResult:
        self.border_title = Content(TITLE)
        yield Lines(id="taken")
        for field in FIELDS:
            yield self._box(field)
        yield Lines(id="memory")
        with Vertical(id="more"), Grid(id="more-fields"):
            for field in MORE:
                yield self._box(field)
        with Horizontal(id="launching"):
            yield Button("Launch", id="launch", variant="primary", disabled=True, compact=True)
            yield Label("", id="launch-said", markup=False)

    def _box(self, field: Field) -> Vertical:
        """A field and, below it, its hint or mistake. Hints of further settings are hidden without the focus."""
        said = Label(self.app.hint(field.hint), id=f"{field.setting}-said", classes="setting-said", markup=False)
        return Vertical(*_field(field), said, classes="setting-box")

    def on_mount(self) -> None:
        # Kept, since an answer may come while the screen is being removed, when a query finds nothing.
        self._fields = {field.setting: self.query_one(f"#{field.setting}") for field in ALL}
        self._hints = {field.setting: self.query_one(f"#{field.setting}-said", Label) for field in ALL}
        self._names = {field.setting: self.query_one(f"#{field.setting}-name", Label) for field in MORE}
        self._memory = self.query_one("#memory", Lines)
        self._taken = self.query_one("#taken", Lines)
        self._button = self.query_one("#launch", Button)
        self._launch_said = self.query_one("#launch-said", Label)
        width, height = self.app.size
        self.fold(out=width >= ROOM_FOR_MORE[0] and height >= ROOM_FOR_MORE[1])

    def on_resize(self) -> None:
        self.call_after_refresh(lambda: self.say_memory(self._estimate))
        self.call_after_refresh(self._say_taken)

    # --- values ---------------------------------------------------------------------------------

    def values(self) -> dict[str, str]:
        """The values in the fields."""
        shown = {field.setting: self._field(field.setting).value for field in ALL}
        return {name: self._hidden.get(value, value) for name, value in shown.items()}

    @property
    def filled(self) -> Filled:
        """What is in the form, for `restore`."""
        return Filled(self.values(), frozenset(self.touched), self.settings_of, self._taken_from, self._defaults)

    def restore(self, filled: Filled) -> None:
        self.fill(filled.values)
        self.touched |= filled.typed
        self.settings_of = filled.settings_of
        self.say_taken(filled.taken_from, filled.defaults)

    def fill(self, values: Mapping[str, str], *, over: bool = False) -> None:
        """Fill fields in. Those touched by hand are left as they are, unless `over`, which makes them untouched."""
        if over:
            self.touched -= set(values)
        for name, value in values.items():
            field = self._field(name)
            # What is being typed just now differs already, though its message has not come yet.
            if not over and (name in self.touched or field.value != self._filled[name]):
                continue
            shown = visible(value)
            if shown != value:
                self._hidden[shown] = value
            self._filled[name] = shown
            if shown == field.value:
                continue
            field.value = shown
            if isinstance(field, Input) and field.has_focus:
                field.action_select_all()

    def take_all_as_filled(self) -> None:
        """What is in the form counts as filled in from now on, even what was typed."""
        self.touched.clear()
        self._filled |= {field.setting: self._field(field.setting).value for field in ALL}

    def choose_prompts(self, path: str | None) -> None:
        """Take a path as if it had been typed; None leaves the field as it is."""
        if path is not None:
            self.fill({"prompts": path}, over=True)
            self.touched.add("prompts")

    def focus_prompts(self) -> None:
        """Move the focus to the field of prompts."""
        self._fields["prompts"].focus()

    def go_to(self, setting: str) -> None:
        """Move the focus to a setting; show the further ones if it is one of them."""
        if setting in MORE_SETTINGS:
            self.fold(out=True)
        if setting in self._fields:
            self._fields[setting].focus()

    def _field(self, setting: str) -> Input | Choice:
        field = self._fields[setting]
        assert isinstance(field, Input | Choice)
        return field

    @on(Input.Changed)
    @on(Choice.Changed)
    def _changed(self, event: Input.Changed | Choice.Changed) -> None:
        event.stop()
        field = event.input if isinstance(event, Input.Changed) else event.choice
        name = field.id or ""
        if name not in self.touched and field.value == self._filled.get(name):
            self.post_message(self.Changed(""))  # filled in, not typed
            return
        self.touched.add(name)
        self.post_message(self.Changed(name))

    @on(Input.Submitted)
    @on(Choice.Submitted)
    @on(Button.Pressed)
    def _submitted(self, event: Message) -> None:
        event.stop()
        self.post_message(self.Submitted())

    # --- mistakes and hints ---------------------------------------------------------------------

    def say(self, problems: Sequence[Problem], estimate: MemoryEstimate | str | None) -> None:
        """Show what is wrong beside the fields, and the memory needed."""
        self._remarks = remarks(problems, estimate, self.values(), self.touched)
        for field in ALL:
            label, remark = self._hints[field.setting], self._remarks.get(field.setting)
            label.set_class(remark is not None and remark.wrong, "-wrong")
            label.set_class(remark is not None and not remark.wrong, "-doubtful")
            label.update(self.app.hint(field.hint) if remark is None else remark.marked)
        for field in MORE:
            self._names[field.setting].set_class(field.setting in self._remarks, "-wrong")
        self.say_memory(estimate)
        self._say_unseen()
        self._say_taken()

    def _say_unseen(self) -> None:
        """Beside Launch, mistakes in settings out of sight; on the border, which further ones were changed."""
        more = self.has_class("-more")
        self.say_launch(mistakes := unseen_mistakes(self._remarks, more=more), wrong=bool(mistakes))
        self.border_subtitle = Content(unseen_settings(self.values(), more=more))

    def say_taken(self, run: str, defaults: Mapping[str, str]) -> None:
        """Name the `run` that the form was filled from (empty: none) and the settings that differ from the defaults.

        A setting changed by hand is no longer one of them.
        """
        self._taken_from, self._defaults = run, defaults
        self._say_taken()

    def _say_taken(self) -> None:
        values = self.values()
        as_filled = {
            name: value
            for name, value in values.items()
            if name not in self.touched and self._filled[name] == visible(value)
        }
        settings = set_values(as_filled, self._defaults) if self._taken_from else []
        short = self.app.size.height < TALL
        width = max(20, self._memory.content_size.width)  # the width of all lines, without the scrollbar
        room = width - len(TITLE) - 3 if short else 2 * width - 16
        words = taken_words(self._taken_from, settings, key_of("start.defaults", self.app.keys), room)
        # A small terminal has room for it only on the border.
        self.border_title = Content(f"{TITLE}, {words}" if settings and short else TITLE)
        self._taken.show([((line, "dim"),) for line in wrap(words, width)[:2]] if settings and not short else [])
        if bool(settings) != self.has_taken:
            self.has_taken = bool(settings)
            self.screen.refresh_bindings()

    def say_memory(self, estimate: MemoryEstimate | str | None) -> None:
        self._estimate = estimate
        shown = memory_lines(estimate, max(20, self._memory.content_size.width))
        # A small terminal has no room for its parts.
        self._memory.show(shown[:2] if self.app.size.height < TALL else shown)

    def say_launch(self, text: str, *, wrong: bool) -> None:
        self._launch_said.set_class(wrong, "-wrong")
        self._launch_said.update(Remark(text, wrong).marked if wrong else visible(text))

    def allow_launch(self, allowed: bool) -> None:
        self._button.disabled = not allowed

    # --- more settings --------------------------------------------------------------------------

    def fold(self, *, out: bool) -> None:
        """Show the further settings if `out`, else hide them."""
        self.set_class(out, "-more")
        self._say_unseen()

    def turn_more(self) -> None:
        """Show the further settings and go to the first, with as many in sight as fit; or hide them."""
        out = not self.has_class("-more")
        self.fold(out=out)
        if out:
            self._fields[MORE[0].setting].focus(scroll_visible=False)
            more = self.query_one("#more")
            self.call_after_refresh(lambda: more.scroll_visible(top=True, animate=False))
        else:
            self._fields[FIELDS[-1].setting].focus()


def _field(field: Field) -> Iterable[Widget]:
    name = Label(cut(field.label, 14), id=f"{field.setting}-name", classes="setting-name", markup=False)
    entry: Widget
    if field.options:
        entry = Choice(field.options, field.first, id=field.setting)
    else:
        entry = TextField(field.first, placeholder=field.empty, id=field.setting, compact=True)
    yield Horizontal(name, entry, classes="setting")
