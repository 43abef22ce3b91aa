"""The program's first steps: what becomes of Ctrl-C while the rest is imported, and after."""

import signal
from collections.abc import Iterator

import pytest

from rankdeck.tui.commands import cli, entry


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_a_program_that_was_told_to_ignore_ctrl_c_ignores_it_and_any_other_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, handler: object
) -> None:
    """A shell has a script's background commands ignore it: Ctrl-C is for the one in front."""
    found: list[object] = []
    monkeypatch.setattr(cli, "main", lambda: found.append(signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, handler)  # type: ignore[arg-type]
    entry.main()
    assert found == [handler]
