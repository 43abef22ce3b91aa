"""The start screen: the settings of a run, each checked as it is typed, and the key that launches it.

Knows a Launcher, which checks and starts; reads no file and looks at no device itself.
"""

import asyncio
from typing import TYPE_CHECKING, ClassVar, Protocol

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Button, Footer, Input, Label, Static

from runner.config import Problem, RunConfig
from tui.knobs import read_batch_size
from tui.screens.run import TOO_SMALL
from tui.screens.sized import Sized
from tui.text import visible

if TYPE_CHECKING:
    from tui.app import RankdeckApp
    from tui.client import Source

CHECK_AFTER_SECONDS = 0.15
"""Typing goes on: a check waits until it has paused for so long."""


class Launcher(Protocol):
    """Checks settings and starts runs; may block, so it is called in a thread."""

    @property
    def machine(self) -> str:
        """What the machine has, in one line."""
        ...

    @property
    def default_ranks(self) -> int: ...

    def check(self, config: RunConfig) -> list[Problem]: ...

    def launch(self, config: RunConfig) -> "Source": ...


FIELDS = (
    ("model", "Model", "demo", "demo, a local folder, or a hub id"),
    ("prompts", "Prompt file", "", "a .txt, .jsonl, .json, .csv or .parquet file"),
    ("ranks", "Ranks", "1", "worker processes, one for each GPU as a rule"),
    ("batch_size", "Batch size", "auto", "prompts per batch and rank; auto finds the best one at work"),
    ("max_new_tokens", "New tokens", "100", "the most an answer may have"),
)
"""Setting, label, first value, hint."""

FIRST_VALUES = {name: value for name, _, value, _ in FIELDS}

NUMBERS = ("ranks", "max_new_tokens")


def read_config(values: dict[str, str]) -> tuple[RunConfig, list[Problem]]:
    """The settings as typed, and what is wrong with the typing.

    What is no number counts as 1, so that the rest can be checked.
    """
    problems = []
    numbers = {}
    for name in NUMBERS:
        text = values[name].strip()
        numbers[name] = 1
        try:
            numbers[name] = int(text)
        except ValueError:
            said = f"must be a whole number, not {visible(text)!r}" if text else "needs a whole number"
            problems.append(Problem(name, said))
    batch_size = None
    try:
        batch_size = read_batch_size(values["batch_size"])
    except ValueError as error:
        problems.append(Problem("batch_size", str(error)))
    if not values["prompts"].strip():
        problems.append(Problem("prompts", "name a file of prompts: .txt, .jsonl, .json, .csv or .parquet"))
    settings = RunConfig(
        prompts=values["prompts"].strip(),
        model=values["model"].strip(),
        ranks=numbers["ranks"],
        batch_size=batch_size,
        max_new_tokens=numbers["max_new_tokens"],
    )
    return settings, problems


class StartScreen(Sized, Screen[None]):
    """Fields, what is wrong with each, and Launch."""

    app: "RankdeckApp"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+enter,ctrl+j", "launch", "Launch", key_display="enter", id="start.launch", tooltip="Start the run"
        ),
        Binding("tab,down", "app.focus_next", "Next field", id="start.next", tooltip="To the next field"),
        Binding("shift+tab,up", "app.focus_previous", "Field before", id="start.previous", show=False),
        Binding("escape", "app.leave", "Quit", id="start.quit", tooltip="Leave"),
    ]

    def __init__(self, launcher: Launcher | None) -> None:
        super().__init__()
        self._launcher = launcher
        self._touched: set[str] = set()
        self._found: list[Problem] = []
        self._checked: RunConfig | None = None
        self._wants_launch = False
        self._launching = False

    def compose(self) -> ComposeResult:
        yield Static(TOO_SMALL, id="too-small", markup=False)
        with VerticalScroll(id="start", can_focus=False), Vertical(id="form") as form:
            form.border_title = "rankdeck: a new run"
            yield Label("looking at the machine", id="machine", markup=False)
            for name, label, value, hint in FIELDS:
                with Horizontal(classes="field"):
                    yield Label(label, classes="name", markup=False)
                    yield Input(value, id=name, compact=True)
                yield Label(hint, id=f"{name}-said", classes="said", markup=False)
            with Horizontal(id="launch-row"):
                yield Button("Launch", id="launch", variant="primary", disabled=True, compact=True)
                yield Label("", id="launch-said", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one("#prompts", Input).focus()
        self._look()
        self._check()

    @work(exclusive=True, group="machine")
    async def _look(self) -> None:
        """What the machine has; counting GPUs may take a moment."""
        launcher = self._launcher
        if launcher is None:
            self.query_one("#machine", Label).update("")
            return
        machine, ranks = await asyncio.to_thread(lambda: (launcher.machine, launcher.default_ranks))
        self.query_one("#machine", Label).update(visible(machine))
        if "ranks" not in self._touched:
            with self.prevent(Input.Changed):
                self.query_one("#ranks", Input).value = str(ranks)
            self._check()

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        name = event.input.id or ""
        if name not in self._touched and event.value == FIRST_VALUES[name]:
            return  # A field says so when it gets its first value, too.
        self._touched.add(name)
        self._wants_launch = False
        self._check()

    @on(Input.Submitted)
    @on(Button.Pressed, "#launch")
    async def _submitted(self) -> None:
        self.action_launch()

    def _values(self) -> dict[str, str]:
        return {name: self.query_one(f"#{name}", Input).value for name, *_ in FIELDS}

    @work(exclusive=True, group="check")
    async def _check(self) -> None:
        """Say at once what can be seen at once; ask the launcher when the typing pauses."""
        self._checked = None
        config, problems = read_config(self._values())
        mistyped = {problem.setting for problem in problems}
        if mistyped or self._launcher is None:
            self._say([*problems, *self._found])
            self.query_one("#launch", Button).disabled = True
        if self._launcher is None:
            return
        await asyncio.sleep(CHECK_AFTER_SECONDS)
        self._found = await asyncio.to_thread(self._launcher.check, config)
        problems = [*problems, *self._found]
        self._say(problems)
        self._checked = None if problems else config
        self.query_one("#launch", Button).disabled = bool(problems)
        if self._wants_launch and not problems:
            self._launch(config)

    def _say(self, problems: list[Problem]) -> None:
        said = {problem.setting: problem.message for problem in reversed(problems)}
        for name, _, _, hint in FIELDS:
            label = self.query_one(f"#{name}-said", Label)
            message = said.pop(name, None)
            # An empty field nobody has been in yet is not a mistake.
            wrong = message is not None and (name in self._touched or self._values()[name] != "")
            label.set_class(wrong, "-wrong")
            label.update(f"✗ {visible(message or '')}" if wrong else hint)
        others = "; ".join(f"{setting.replace('_', ' ')}: {message}" for setting, message in said.items())
        self._say_launch(others, wrong=bool(others))

    def _say_launch(self, text: str, *, wrong: bool) -> None:
        label = self.query_one("#launch-said", Label)
        label.set_class(wrong, "-wrong")
        label.update(visible(text))

    def action_launch(self) -> None:
        """Launch what was checked; what is still being checked is launched when that went well."""
        if self._launching:
            return
        if self._checked is not None:
            self._launch(self._checked)
            return
        self._touched.add("prompts")
        self._wants_launch = True
        self._check()

    @work(exclusive=True, group="launch")
    async def _launch(self, config: RunConfig) -> None:
        if self._launcher is None or self._launching:
            return
        self._launching, self._wants_launch = True, False
        self.query_one("#launch", Button).disabled = True
        self._say_launch("launching", wrong=False)
        try:
            source = await asyncio.to_thread(self._launcher.launch, config)
        except Exception as error:  # Whatever keeps a run from starting is said here: the user can mend it.
            self._say_launch(str(error) or type(error).__name__, wrong=True)
            self.query_one("#launch", Button).disabled = False
            self._launching = False
            return
        self.app.open_run(source)
