"""Copying by OSC 52: the whole text or nothing, and the user is told which."""

from typing import Any

import pytest

from rankdeck.tui.terminal.clipboard import MOST_BYTES, copy


class App:
    """Keeps what is copied and told."""

    def __init__(self) -> None:
        self.copied: list[str] = []
        self.told: list[tuple[str, dict[str, Any]]] = []

    def copy_to_clipboard(self, text: str) -> None:
        self.copied.append(text)

    def notify(self, words: str, **how: Any) -> None:
        self.told.append((words, how))


@pytest.mark.parametrize("sign", ["x", "ä", "[red]", "\U0001f600"])
def test_as_much_as_terminals_take_is_copied_and_not_a_byte_more(sign: str) -> None:
    size = len(sign.encode())
    most = sign * (MOST_BYTES // size)
    app = App()
    copy(app, most, "the answer", instead="p opens it")  # type: ignore[arg-type]
    assert app.copied == [most]
    ((words, how),) = app.told
    assert words.startswith(f"the answer, {len(most):,} characters. ")
    assert "OSC 52" in words
    assert how == {"title": "Copied", "markup": False}
    longer = most + "x" * (MOST_BYTES - len(most.encode()) + 1)
    copy(app, longer, "the answer", instead="p opens it")  # type: ignore[arg-type]
    assert app.copied == [most], "a terminal would drop it, or cut it, without a word"
    words, how = app.told[-1]
    assert words == f"the answer has {len(longer):,} characters: terminals take some 75,000 bytes. p opens it"
    assert how == {"title": "Too long to copy", "severity": "warning", "markup": False}


def test_a_lone_surrogate_is_copied_as_a_question_mark_and_nothing_else_need_be_said_of_long_texts() -> None:
    app = App()
    copy(app, "a\udc80b", "it")  # type: ignore[arg-type]
    assert app.copied == ["a?b"]
    copy(app, "x" * (MOST_BYTES + 1), "it")  # type: ignore[arg-type]
    assert app.told[-1][0].endswith("75,000 bytes.")
