"""The help screen: every key of the screen under it, and the words the dashboard uses."""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen

from tui.text import Line, pad, wrap
from tui.widgets.lines import Panel

WORDS = (
    ("a → b tok/s", "before and after a knob was turned, over whole batches that began and ended under one setting"),
    ("memory", "beside those figures: the most a rank had in use on its device during a batch"),
    ("speedup", "tokens/s over those of one active rank at the same batch size, both from this run"),
    ("efficiency", "speedup / active ranks"),
    ("inactive", "the rank keeps its model loaded and gets no batch"),
    ("≤8", "the rank ran out of memory: it gets at most 8 prompts per batch"),
    ("tok/s", "output tokens per second; padding is never counted"),
    ("padding waste", "share of the computed token slots that held no real token; 0% is perfect"),
    ("idle", "share of a rank's time, since all ranks were ready, with no batch in hand"),
    ("busy", "share of the time in which some kernel ran on the GPU; not how full it was"),
    ("batch", "#7 x16 is the run's seventh batch, with 16 prompts"),
    ("±", "half of the 95% interval of a sweep's repeats; ★ the best setting, ▸ the one at hand, ▾ where growth ends"),
    ("MBU", "bytes a decode step must read / its time / the device's peak memory bandwidth"),
    ("~", "a prediction beyond what was measured"),
    ("step", "new tokens per prompt of the batch so far, of the most there may be"),
)


def help_lines(keys: Sequence[tuple[str, str]], width: int) -> list[Line]:
    """The keys and the words, each in two columns."""
    lines: list[Line] = [(("Keys", "strong"),)]
    lines.extend(_entries(keys, width))
    lines.extend([(), (("Words", "strong"),)])
    lines.extend(_entries(WORDS, width))
    return lines


def _entries(entries: Sequence[tuple[str, str]], width: int) -> list[Line]:
    first = max(len(name) for name, _ in entries) + 2
    return [
        ((pad(name if number == 0 else "", first), "key"), (part, ""))
        for name, text in entries
        for number, part in enumerate(wrap(text, max(10, width - first)))
    ]


class HelpScreen(ModalScreen[None]):
    """Keys and words; any of its own keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss", "Close", id="help.close", tooltip="Back")
    ]

    def __init__(self, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._keys = keys

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as box:
            box.border_title = "Help"
            box.border_subtitle = "esc closes"
            yield Panel("", id="help-lines")

    def on_mount(self) -> None:
        self.query_one(Panel).draw(lambda width, height: help_lines(self._keys, width))
        self.query_one("#help").focus()
