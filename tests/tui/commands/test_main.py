"""How the program ends: with which status and which words, whatever happened in it."""

import signal
import sys
from typing import Any

import pytest

from rankdeck.runner import checks, start
from rankdeck.runner.run_directory.run_file import RunFileError
from rankdeck.tui.commands import cli
from rankdeck.tui.terminal.inert import InertStream, OutputError
from tests.tui.commands.test_cli import rankdeck


class Stream:
    """A standard stream that counts."""

    def __init__(self) -> None:
        self.written, self.flushed, self.closed = "", 0, False

    def write(self, text: str) -> int:
        self.written += text
        return len(text)

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        raise OSError


def streams(monkeypatch: pytest.MonkeyPatch) -> tuple[Stream, Stream]:
    """Standard output and standard error: no fixture, since pytest puts its own in place before each test."""
    out, err = Stream(), Stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            OutputError("standard output cannot be written: full"),
            3,
            "rankdeck: standard output cannot be written: full\n",
        ),
        (RunFileError("no run is live"), 2, "rankdeck: no run is live\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
        (SystemExit(7), 7, ""),
        (None, None, ""),
    ],
)
def test_what_ends_a_command_is_a_status_and_a_line_at_most(
    monkeypatch: pytest.MonkeyPatch, error: Any, status: int | None, said: str
) -> None:
    def app() -> None:
        assert isinstance(sys.stdout, InertStream), "guarded before anything is printed"
        if error is not None:
            raise error

    monkeypatch.setattr(cli, "app", app)
    out, err = streams(monkeypatch)
    if status is None:
        cli.main()
    else:
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == status
    assert (err.written, out.written) == (said, "")
    assert out.flushed == 1
    assert err.closed == isinstance(error, BrokenPipeError)


def test_lines_that_cannot_be_written_at_the_very_end_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    out, err = streams(monkeypatch)
    out.flush = full  # type: ignore[method-assign]
    monkeypatch.setattr(cli, "app", lambda: None)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == cli.EXIT_DIED == 3
    assert err.written == "rankdeck: standard output cannot be written: No space left on device\n"


def test_without_a_terminal_there_is_no_start_screen_and_all_that_is_wrong_is_told() -> None:
    needs = "rankdeck: the start screen needs a terminal that it can draw on; see `rankdeck run --help`"
    result = rankdeck()
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"{needs}\n")
    first, second = rankdeck("--theme", "nrd").stderr.splitlines()
    assert first.startswith("rankdeck: --theme: there is no theme 'nrd'")
    assert second == needs


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--no-ascii", "run"], "options go after the command: rankdeck run --no-ascii"),
        (["--theme", "nord", "--ascii", "demo"], "options go after the command: rankdeck demo --theme nord --ascii"),
        (["--theme", "nord", "serve"], "options go after the command: rankdeck serve --theme nord"),
        (
            ["--ascii", "serve"],
            "--ascii: not for `rankdeck serve`, only for the start screen and run, demo, attach, resume, sweep, replay",
        ),
        (
            ["--theme", "nord", "list"],
            "--theme nord: not for `rankdeck list`, only for the start screen and run, demo, attach, resume, sweep, "
            "replay, serve",
        ),
        (
            ["--theme", "nord", "--no-ascii", "serve"],
            "--theme nord --no-ascii: not for `rankdeck serve`, only for the start screen and run, demo, attach, "
            "resume, sweep, replay",
        ),
    ],
)
def test_what_was_typed_before_a_command_is_told_where_it_belongs(words: list[str], said: str) -> None:
    result = rankdeck(*words)
    assert (result.exit_code, result.stderr) == (2, f"rankdeck: {said}\n")


# --- hello ----------------------------------------------------------------------------------------


def test_ranks_that_greet_end_with_the_command_however_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    found: list[Any] = []

    async def interrupted(ranks: int, device: str) -> list[str]:
        found.extend(signal.getsignal(number) for number in numbers)
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "hello", interrupted)
    result = rankdeck("hello", "--ranks", "1", "--device", "cpu")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")
    assert found == [signal.default_int_handler] * 2
    assert [signal.getsignal(number) for number in numbers] == [signal.SIG_DFL] * 2


def test_who_asked_not_to_be_ended_with_the_terminal_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `nohup` does."""
    found: list[Any] = []

    async def greeting(ranks: int, device: str) -> list[str]:
        found.append(signal.getsignal(signal.SIGHUP))
        return []

    monkeypatch.setattr(start, "hello", greeting)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        rankdeck("hello", "--ranks", "1", "--device", "cpu")
        found.append(signal.getsignal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found == [signal.SIG_IGN] * 2


def test_a_wrong_number_of_ranks_and_a_wrong_device_are_told_together_before_any_rank_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start, "hello", lambda *_: pytest.fail("ranks were started"))
    monkeypatch.setattr(checks, "uncounted_gpus", lambda device: pytest.fail("it went on"))
    result = rankdeck("hello", "--ranks", "0", "--device", "gpu")
    assert result.exit_code == 2
    assert [line.split(":")[1] for line in result.stderr.splitlines()] == [" --ranks", " --device"]
