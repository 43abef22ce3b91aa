"""What the bytes of a prompt file are, whatever its name says: compressed data, a database, a pointer, UTF-16.

Opens files and standard input, reads .gz, and refuses by name what holds no lines of UTF-8. Does not know the formats
of prompt files.
"""

import codecs
import contextlib
import gzip
import io
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from rankdeck.runner.inputs.prompts.kinds import COMPRESSIBLE, COMPRESSION, Kind
from rankdeck.runner.inputs.prompts.problems import Problems

HEAD_BYTES = 4096
STDIN = "-"
WIDE_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Content(NamedTuple):
    """A kind of content that is no prompt file: how its bytes begin, what it is, and what to do."""

    begins: re.Pattern[bytes]
    what: str
    cure: str


GZIP = Content(re.compile(rb"\x1f\x8b"), "gzip-compressed", "gunzip it first")
PARQUET = Content(re.compile(rb"PAR1\x15|PARE"), "a Parquet file", "name it .parquet")
POINTER = Content(
    re.compile(rb"version https://git-lfs\.github\.com/spec/"),
    "a Git LFS pointer, not the file it stands for",
    "fetch that with `git lfs pull` in its repository",
)
CONTENTS = (
    GZIP,
    PARQUET,
    POINTER,
    *(
        Content(re.compile(begins, re.DOTALL), what, cure)
        for begins, what, cure in (
            (rb"\x28\xb5\x2f\xfd", "zstd-compressed", "decompress it first with unzstd"),
            (rb"\xfd7zXZ\0", "xz-compressed", "decompress it first with unxz"),
            (rb"BZh[1-9]1AY&SY", "bzip2-compressed", "decompress it first with bunzip2"),
            (rb"\x04\x22\x4d\x18", "lz4-compressed", "decompress it first with unlz4"),
            (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
            (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip archive", "unzip it first; save a spreadsheet as .csv"),
            (rb".{257}ustar", "a tar archive", "unpack it first with `tar xf`"),
            (rb"ARROW1\0\0", "an Arrow file", "save it as .parquet"),
            (rb"Obj\x01", "an Avro file", "save it as .jsonl"),
            (rb"\x89HDF\r\n", "an HDF5 file", "save it as .jsonl"),
            (rb"\x80[\x02-\x05]", "a Python pickle", "save it as .jsonl"),
            (rb"SQLite format 3\0", "an SQLite database", "export its prompts with `sqlite3 -header -csv`"),
            (rb"%PDF-", "a PDF", "take its text out with pdftotext"),
            (rb"\{\\rtf", "an RTF document", "save it as plain text"),
            (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document", "save it as .csv or plain text"),
            (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a", "an image", "give a file of prompts"),
            (
                rb"\s*<(?i:!doctype html|html[\s>])",
                "a web page (HTML)",
                "a download that needs a login or has moved gives one: fetch the file again",
            ),
            (rb"\s*<\?xml", "an XML document", "if it says why a download failed, fetch the file again"),
        )
    ),
)


@contextlib.contextmanager
def reading(path: Path | BinaryIO, problems: Problems) -> Iterator[BinaryIO]:
    """The open file; errors of the operating system become a PromptError."""
    try:
        if not isinstance(path, Path):
            yield path
            return
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise problems.stop(f"this is a pipe or a device, not a file; give it as standard input: {STDIN}")
            yield file
    except FileNotFoundError:
        raise problems.stop("there is no such file; check the path") from None
    except IsADirectoryError:
        raise problems.stop("this is a folder; give the file in it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise problems.stop(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe that nobody writes to without waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextlib.contextmanager
def opened(source: str, stdin: BinaryIO | None, problems: Problems) -> Iterator[BinaryIO]:
    """The bytes of `source`, a file name or `-`, out of their .gz. Raises PromptError for what holds no prompts."""
    kind = Kind.of(source)
    with reading((stdin or sys.stdin.buffer) if source == STDIN else Path(source), problems) as file:
        if not kind.compressed:
            yield _checked(file, source, problems)
            return
        head = _checked(file, source, problems).read(2)
        file.seek(0)
        if not GZIP.begins.match(head):
            raise problems.stop("not gzip-compressed, though its name ends in .gz; rename it")
        try:
            with gzip.open(file) as plain:
                if GZIP.begins.match(plain.read(2)):
                    raise problems.stop(f"this is gzip-compressed twice; {GZIP.cure}")
                plain.seek(0)
                yield _checked(cast(BinaryIO, plain), source.removesuffix(Path(source).suffix), problems)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise problems.stop(f"its gzip data is damaged or cut short ({error}); fetch it again") from None


def _checked(file: BinaryIO, source: str, problems: Problems) -> BinaryIO:
    """`file` from its start, unless that shows that it holds no prompts."""
    head = file.read(HEAD_BYTES)
    if not head:
        raise problems.stop("it is empty")
    _check(head, source, problems)
    if source != STDIN:
        file.seek(0)
        return file
    if len(head) < HEAD_BYTES:  # the end has been seen: a terminal would have to be told again
        return io.BytesIO(head)
    return io.BufferedReader(_Again(head, file))


def _check(head: bytes, source: str, problems: Problems) -> None:
    kind = Kind.of(source)
    start = head.removeprefix(BYTE_ORDER_MARK)
    for content in CONTENTS:
        if content.begins.match(start) and not _as_named(content, kind):
            raise problems.stop(f"this is {content.what}; {_cure(content, source)}")
    if kind.suffix == ".parquet" or kind.compressed or start is not head:
        return
    if (encoding := _wide_encoding(head)) is not None:
        said = f"the file is {encoding}, not UTF-8; convert it with `iconv -f {encoding} -t UTF-8`"
        raise problems.stop(said, place=1)


def _as_named(content: Content, kind: Kind) -> bool:
    return (content is PARQUET and kind.suffix == ".parquet") or (content is GZIP and kind.compressed)


def _cure(content: Content, source: str) -> str:
    if source == STDIN:
        cures = {GZIP: "pipe it through gunzip", PARQUET: "save it and give its name"}
        return cures.get(content, content.cure)
    if content is GZIP and Kind.of(source).suffix in COMPRESSIBLE:
        return f"{content.cure}, or name it {Path(source).suffix}{COMPRESSION}"
    return content.cure


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by its mark, or without one by where its zero bytes stand."""
    for mark, encoding in WIDE_MARKS.items():
        if head.startswith(mark):
            return encoding
    zeros = [head[place::4].count(0) for place in range(4)]
    quarter = len(head) / 4
    if sum(zeros) > 2 * quarter and min(zeros) <= quarter / 8:
        return "UTF-32LE" if zeros[3] > zeros[0] else "UTF-32BE"
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if max(even, odd) > quarter and min(even, odd) <= quarter / 8:
        return "UTF-16LE" if odd > even else "UTF-16BE"
    return next((encoding for encoding in ("UTF-16LE", "UTF-16BE") if 0 in head and _reads_as(head, encoding)), None)


def _reads_as(head: bytes, encoding: str) -> bool:
    """Whether it is lines of text in an encoding of two bytes: in that of other letters only line feeds have zeros."""
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head)
    readable = sum(letter.isprintable() or letter in "\r\n\t" for letter in text) - text.count("\ufffd")
    return 0 < head.count(b"\n") <= 2 * text.count("\n") and readable > 0.95 * len(text)


class _Again(io.RawIOBase):
    """What was read of a stream that cannot go back, and then the rest of it."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._start[: len(buffer)] or self._rest.read(len(buffer))
        self._start = self._start[len(data) :]
        buffer[: len(data)] = data
        return len(data)
