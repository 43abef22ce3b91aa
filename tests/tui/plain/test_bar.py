"""The bar below the lines of --plain: where it is drawn, when, and what stays on the terminal."""

import io
import os
from collections.abc import Callable

import pytest

from rankdeck.tui.plain import bar as bars
from rankdeck.tui.plain.bar import ERASE, REDRAW_SECONDS, BottomLine, bar_stream


class Stream(io.StringIO):
    """A stream that is a terminal, or not."""

    def __init__(self, terminal: bool = True, encoding: str | None = "utf-8") -> None:
        super().__init__()
        self.terminal, self.flushed = terminal, 0
        self._encoding = encoding

    @property
    def encoding(self) -> str | None:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self.terminal

    def flush(self) -> None:
        self.flushed += 1


@pytest.mark.parametrize(
    ("out", "err", "drawn"), [(True, True, "err"), (True, False, "out"), (False, True, "err"), (False, False, None)]
)
def test_the_bar_is_on_standard_error_else_on_standard_output_if_one_is_a_terminal(
    monkeypatch: pytest.MonkeyPatch, out: bool, err: bool, drawn: str | None
) -> None:
    streams = {"out": Stream(out), "err": Stream(err)}
    monkeypatch.setattr(bars.sys, "stdout", streams["out"])
    monkeypatch.setattr(bars.sys, "stderr", streams["err"])
    monkeypatch.setenv("TERM", "xterm")
    assert bar_stream() is (streams[drawn] if drawn else None)
    monkeypatch.delenv("TERM")
    assert bar_stream() is None, "nothing is known of a terminal without a name"


def test_the_same_text_is_written_once_and_each_write_reaches_the_terminal() -> None:
    stream = Stream()
    bar = BottomLine(stream, clock=lambda: 0.0)
    assert (bar.due, bar.signs) == (True, ("█", "░"))
    bar.draw("1%")
    bar.draw("1%")
    assert (stream.getvalue(), stream.flushed) == (f"{ERASE}1%", 1)
    bar.draw("2%")
    assert (stream.getvalue(), stream.flushed) == (f"{ERASE}1%{ERASE}2%", 2)


def test_a_bar_is_due_again_after_a_quarter_of_a_second_also_if_nothing_changed() -> None:
    now = [5.0]
    bar = BottomLine(Stream(), clock=lambda: now[0])
    bar.draw("1%")
    assert not bar.due
    now[0] += REDRAW_SECONDS - 0.01
    assert not bar.due
    now[0] += 0.01
    assert bar.due
    bar.draw("1%")
    assert not bar.due


def test_before_there_is_a_bar_lines_are_written_as_they_are() -> None:
    stream = Stream()
    bar = BottomLine(stream)
    bar.write_above(stream, "a line\n")
    bar.close()
    assert stream.getvalue() == "a line\n"


def test_lines_on_the_other_stream_come_between_an_erased_bar_and_a_new_one() -> None:
    written: list[str] = []
    terminal, other = Stream(), Stream()
    terminal.write = lambda text: written.append(f"bar {text!r}") or 0  # type: ignore[method-assign,func-returns-value]
    other.write = lambda text: written.append(f"line {text!r}") or 0  # type: ignore[method-assign,func-returns-value]
    bar = BottomLine(terminal)
    bar.draw("7%")
    bar.write_above(other, "a line\n")
    assert written == [f"bar {ERASE + '7%'!r}", f"bar {ERASE!r}", "line 'a line\\n'", "bar '7%'"]
    assert other.flushed == 1, "before the bar is drawn again"


def test_an_erased_bar_is_erased_once() -> None:
    stream = Stream()
    bar = BottomLine(stream)
    bar.draw("7%")
    bar.close()
    bar.close()
    assert stream.getvalue() == f"{ERASE}7%{ERASE}"
    bar.write_above(stream, "a line\n")
    assert stream.getvalue().endswith(f"{ERASE}a line\n"), "no bar comes back"


@pytest.mark.parametrize(("columns", "width"), [(80, 79), (2, 1), (1, 1), (0, 1)])
def test_the_last_cell_of_a_line_stays_free(monkeypatch: pytest.MonkeyPatch, columns: int, width: int) -> None:
    stream = Stream()
    stream.fileno = lambda: 42  # type: ignore[method-assign]
    asked: list[int] = []

    def size(descriptor: int) -> os.terminal_size:
        asked.append(descriptor)
        return os.terminal_size((columns, 24))

    monkeypatch.setattr(bars.os, "get_terminal_size", size)
    assert BottomLine(stream).width == width
    assert asked == [42], "the terminal of the bar, which need not be that of standard output"
    assert unsized(monkeypatch, stream) == 79


def unsized(monkeypatch: pytest.MonkeyPatch, stream: Stream) -> int:
    def no_terminal(_: int) -> os.terminal_size:
        raise OSError

    monkeypatch.setattr(bars.os, "get_terminal_size", no_terminal)
    return BottomLine(stream).width


@pytest.mark.parametrize(
    ("encoding", "signs"),
    [("utf-8", ("█", "░")), ("ascii", ("#", ".")), ("latin-1", ("#", ".")), (None, ("#", ".")), ("nosuch", ("#", "."))],
)
def test_the_bar_has_signs_that_its_stream_can_write(encoding: str | None, signs: tuple[str, str]) -> None:
    make: Callable[[], BottomLine] = lambda: BottomLine(Stream(encoding=encoding))  # noqa: E731
    assert make().signs == signs
