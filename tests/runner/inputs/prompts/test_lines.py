"""Lines of a file: where each ends, how long it may be, and what is said of bytes that are no UTF-8."""

import io

import pytest

from rankdeck.runner.inputs.prompts import lines as module
from rankdeck.runner.inputs.prompts.lines import UnreadableLine, lines
from rankdeck.runner.inputs.prompts.problems import Problems, PromptError


def read(content: bytes) -> list[tuple[int, str]]:
    """The lines of a file of this content; what is wrong with one stands in its place."""
    return [(number, str(line)) for number, line in lines(io.BytesIO(content), Problems("p"))]


def test_lines_have_their_endings_and_nothing_has_none() -> None:
    assert read(b"a\r\n\n\rb\n c") == [(1, "a\r\n"), (2, "\n"), (3, "\rb\n"), (4, " c")]
    assert read(b"") == []
    assert read(b"\xef\xbb\xbfa\n\xef\xbb\xbfb") == [(1, "a\n"), (2, "\ufeffb")], "only the first is a mark"


@pytest.mark.parametrize(("content", "refused"), [
    (b"a\rb", True), (b"a\rb\n", True), (b"a\rb\r\n", True), (b"a\r\r", True),
    (b"a\r", False), (b"a\r\n", False), (b"a\rb\nc", False), (b"\r\n", False),
])  # fmt: skip
def test_carriage_returns_are_refused_only_where_they_alone_separate(content: bytes, refused: bool) -> None:
    if not refused:
        assert "".join(line for _, line in read(content)) == content.decode()
        return
    with pytest.raises(PromptError) as caught:
        read(content)
    assert str(caught.value) == (
        "p: its lines end in a carriage return (CR) alone, as on old Macs; convert it with `tr '\\r' '\\n'`, "
        "or write a CR that belongs to a prompt as \\r in .jsonl"
    )


def test_a_line_may_be_so_long_with_its_ending_and_a_longer_one_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 10)
    long = "the line is longer than 10 bytes"
    for content, found in (
        (b"123456789\nx", [(1, "123456789\n"), (2, "x")]),
        (b"1234567890\nx", [(1, long), (2, "x")]),
        (b"12345678901\nx", [(1, long), (2, "x")]),
        (b"1" * 99 + b"\nx\n", [(1, long), (2, "x\n")]),
        (b"x\n" + b"1" * 20, [(1, "x\n"), (2, long)]),
        (b"1234567890", [(1, "1234567890")]),
    ):
        assert read(content) == found
    (_, (_, said)) = read(b"1" * 30 + b"\n\xff\n")
    assert "byte 0xff at offset 31 of the file" in said, "what was passed over counts"


CONVERT = "; save the file as UTF-8, or convert it with `iconv -f WINDOWS-1252 -t UTF-8`"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\nb\xe9c\n", f"not UTF-8 (byte 0xe9 at offset 3 of the file, 'é' in Latin-1){CONVERT}"),
        (b"\xef\xbb\xbf\xfc\n", f"not UTF-8 (byte 0xfc at offset 3 of the file, 'ü' in Latin-1){CONVERT}"),
        (b"\x81", f"not UTF-8 (byte 0x81 at offset 0 of the file){CONVERT}"),
        (b"\xa0", f"not UTF-8 (byte 0xa0 at offset 0 of the file){CONVERT}"),
        (b"x\xc3", "not UTF-8 (byte 0xc3 at offset 1 of the file begins a character that is cut off); get the whole "
                   "file"),
        (b"x\xc3\n", f"not UTF-8 (byte 0xc3 at offset 1 of the file, 'Ã' in Latin-1){CONVERT}"),
    ],
)  # fmt: skip
def test_a_byte_that_is_no_utf_8_is_named_with_its_place_and_its_letter(content: bytes, said: str) -> None:
    assert read(content)[-1][1] == said


def test_of_a_line_that_is_no_utf_8_what_can_be_read_stays() -> None:
    ((_, line),) = lines(io.BytesIO(b'"\xff"\n'), Problems("p"))
    assert isinstance(line, UnreadableLine)
    assert line.text == '"\ufffd"\n'
    assert UnreadableLine("why").text == "\n"
