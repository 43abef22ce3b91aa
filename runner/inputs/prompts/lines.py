"""The lines of a file, decoded; what is wrong with one is said in its place. Knows UTF-8, not what the lines hold."""

from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO, NamedTuple

from rankdeck.runner.inputs.prompts.contents import BYTE_ORDER_MARK
from rankdeck.runner.inputs.prompts.problems import Problems
from rankdeck.runner.protocol import MAX_LINE_BYTES

MAC_LINES = (
    "its lines end in a carriage return (CR) alone, as on old Macs; "
    "convert it with `tr '\\r' '\\n'`, or write a CR that belongs to a prompt as \\r in .jsonl"
)


class UnreadableLine(ValueError):
    """A line that cannot be used; `text` is what can be said of it, so that quotes around it stay in step."""

    def __init__(self, message: str, text: str = "\n") -> None:
        super().__init__(message)
        self.text = text


Line = tuple[int, str | UnreadableLine]
"""A line's number, from 1, and the line with its ending."""


class _Piece(NamedTuple):
    number: int
    offset: int
    raw: bytes
    too_long: bool = False


def lines(file: BinaryIO, problems: Problems) -> Iterator[Line]:
    """Lines with their endings, split at `\\n` only: all other separators are data.

    Raises:
        PromptError: the file knows no `\\n`, and separates its lines by `\\r`.
    """
    pieces = _pieces(file)
    first = next(pieces, None)
    if first is None:
        return
    second = next(pieces, None)
    if second is None and b"\r" in first.raw.removesuffix(b"\n").removesuffix(b"\r"):
        raise problems.stop(MAC_LINES)
    unmarked = first.raw.removeprefix(BYTE_ORDER_MARK)
    first = first._replace(raw=unmarked, offset=len(first.raw) - len(unmarked))
    for piece in chain([first], [] if second is None else [second], pieces):
        if piece.too_long:
            yield piece.number, UnreadableLine(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
            continue
        try:
            yield piece.number, piece.raw.decode()
        except UnicodeDecodeError as error:
            text = piece.raw.decode(errors="replace")
            yield piece.number, UnreadableLine(not_utf8(piece.raw, piece.offset, error), text)


def _pieces(file: BinaryIO) -> Iterator[_Piece]:
    """The bytes of each line, or of its beginning where it is too long."""
    number = offset = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number, start = number + 1, offset
        offset += len(raw)
        too_long = len(raw) > MAX_LINE_BYTES
        ended = raw.endswith(b"\n")
        while not ended and too_long and (rest := file.readline(MAX_LINE_BYTES)):
            offset += len(rest)
            ended = rest.endswith(b"\n")
        yield _Piece(number, start, raw, too_long)


def not_utf8(raw: bytes, start: int, error: UnicodeDecodeError) -> str:
    """What to say of bytes that are not UTF-8; they begin at `start` of their file."""
    byte = raw[error.start]
    where = f"byte 0x{byte:02x} at offset {start + error.start} of the file"
    if error.end == len(raw) and error.reason == "unexpected end of data":
        return f"not UTF-8 ({where} begins a character that is cut off); get the whole file"
    if sum(each >= 0x80 for each in raw) > max(3, len(raw) // 3):  # hardly a word of it is in Latin letters
        return f"not UTF-8 ({where}); save the file as UTF-8, or convert it with iconv from the encoding it is in"
    letter = bytes([byte]).decode("cp1252", errors="ignore")
    said = f", {letter!r} in Latin-1" if letter.isprintable() and letter else ""
    return f"not UTF-8 ({where}{said}); save the file as UTF-8, or convert it with `iconv -f WINDOWS-1252 -t UTF-8`"
