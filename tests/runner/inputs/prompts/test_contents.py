"""What a file holds counts, whatever its name says: it is read, or refused by what it is and with the way out."""

import gzip
import io
import os
from pathlib import Path

import pytest

from rankdeck.runner.inputs import paths
from rankdeck.runner.inputs.prompts.contents import HEAD_BYTES, opened
from rankdeck.runner.inputs.prompts.problems import Problems
from tests.runner.inputs.freezing import complaint, frozen, texts

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


def gzipped(content: bytes) -> bytes:
    """Without the time, which would be in the names of tests."""
    return gzip.compress(content, mtime=0)


LINES = b'{"prompt": "one"}\n{"prompt": "two"}\n'

CONTENTS = [
    (gzipped(b"a\nb\n"), "gzip-compressed; gunzip it first"),
    (b"\x28\xb5\x2f\xfd\x04\x00", "zstd-compressed; decompress it first with unzstd"),
    (b"\xfd7zXZ\0\0\4", "xz-compressed; decompress it first with unxz"),
    (b"BZh91AY&SY\x00", "bzip2-compressed; decompress it first with bunzip2"),
    (b"PK\x03\x04\x14\x00", "a zip archive; unzip it first"),
    (b"PAR1\x15\x04\x15\x10", "a Parquet file; "),
    (b"SQLite format 3\0\x10\x00", "an SQLite database; export"),
    (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF; take its text out"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", "an Office document; save it as .csv"),
    (b"\x89PNG\r\n\x1a\n", "an image"),
    (b"name\0" + b"0" * 252 + b"ustar\x0000", "a tar archive"),
    (POINTER, "a Git LFS pointer, not the file it stands for; fetch that with `git lfs pull`"),
    (b"\n <!DOCTYPE html>\n<html><title>Sign in</title>", "a web page (HTML); "),
    (b"\xef\xbb\xbf<HTML lang='en'>\n", "a web page (HTML); "),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
]


UNPACK = "unpack it first"
AS_LINES = "save it as .jsonl"
WHOLE = {
    b"\x28\xb5\x2f\xfd": ("zstd-compressed", "decompress it first with unzstd"),
    b"\xfd7zXZ\0": ("xz-compressed", "decompress it first with unxz"),
    b"BZh11AY&SY": ("bzip2-compressed", "decompress it first with bunzip2"),
    b"\x04\x22\x4d\x18": ("lz4-compressed", "decompress it first with unlz4"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
    **dict.fromkeys(
        (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"),
        ("a zip archive", "unzip it first; save a spreadsheet as .csv"),
    ),
    b"x" * 256 + b"\nustar": ("a tar archive", "unpack it first with `tar xf`"),
    **dict.fromkeys((b"PAR1\x15", b"PARE"), ("a Parquet file", "name it .parquet")),
    b"ARROW1\0\0": ("an Arrow file", "save it as .parquet"),
    b"Obj\x01": ("an Avro file", AS_LINES),
    b"\x89HDF\r\n": ("an HDF5 file", AS_LINES),
    **dict.fromkeys((b"\x80\x02", b"\x80\x05"), ("a Python pickle", AS_LINES)),
    b"SQLite format 3\0": ("an SQLite database", "export its prompts with `sqlite3 -header -csv`"),
    b"%PDF-": ("a PDF", "take its text out with pdftotext"),
    b"{\\rtf1": ("an RTF document", "save it as plain text"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an Office document", "save it as .csv or plain text"),
    **dict.fromkeys(
        (b"\x89PNG", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"), ("an image", "give a file of prompts")
    ),
    **dict.fromkeys(
        (b"<html>", b"<HTML lang", b"<!doctype HTML"),
        ("a web page (HTML)", "a download that needs a login or has moved gives one: fetch the file again"),
    ),
    b" <?xml": ("an XML document", "if it says why a download failed, fetch the file again"),
    POINTER: (
        "a Git LFS pointer, not the file it stands for", "fetch that with `git lfs pull` in its repository"
    ),
}  # fmt: skip


@pytest.mark.parametrize("begins", WHOLE, ids=lambda begins: repr(begins[-8:]))
def test_each_content_has_its_name_and_its_cure(begins: bytes) -> None:
    what, cure = WHOLE[begins]
    for content in (begins, b"\xef\xbb\xbf" + begins):
        assert complaint("p.txt", content + b" and more\n") == f"p.txt: this is {what}; {cure}"


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("p.txt", "gunzip it first, or name it .txt.gz"),
        ("p.CSV", "gunzip it first, or name it .CSV.gz"),
        ("p.ndjson", "gunzip it first, or name it .ndjson.gz"),
        ("p.parquet", "gunzip it first"),
        ("p.bin", "gunzip it first"),
        ("p", "gunzip it first"),
        ("-", "pipe it through gunzip"),
    ],
)
def test_what_to_do_with_compressed_lines_depends_on_their_name(name: str, cure: str) -> None:
    content, column = gzipped(LINES), "x" if name in ("p.CSV", "p.parquet") else None
    said = complaint("-", stdin=content) if name == "-" else complaint(name, content, column=column)
    shown = "standard input" if name == "-" else name
    assert said == f"{shown}: this is gzip-compressed; {cure}"


def test_a_parquet_file_on_standard_input_must_be_saved() -> None:
    assert complaint("-", stdin=b"PAR1\x15\x04") == (
        "standard input: this is a Parquet file; save it and give its name"
    )


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
        (b"\xff\xfe\0\0", "UTF-32"),
        (b"\0\0\xfe\xff", "UTF-32"),
    ],
)
def test_a_mark_of_a_wide_encoding_names_it(mark: bytes, encoding: str) -> None:
    assert complaint("p.txt", mark + b"anything") == (
        f"p.txt:1: the file is {encoding}, not UTF-8; convert it with `iconv -f {encoding} -t UTF-8`"
    )


def test_zero_bytes_say_nothing_of_compressed_data_and_where_a_mark_says_utf_8() -> None:
    zeros = b"a\0" * 200
    assert complaint("p.parquet", b"PAR1\x15" + zeros, column="x").startswith(
        "p.parquet: this Parquet file cannot be read"
    )
    assert "its gzip data is damaged" in complaint("p.txt.gz", b"\x1f\x8b" + zeros)
    assert texts(frozen("p.txt", b"\xef\xbb\xbf" + zeros)) == [zeros.decode()]


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.json", "p.csv", "p.bin", "p"])
@pytest.mark.parametrize(("content", "said"), CONTENTS, ids=[said.split(";")[0] for _, said in CONTENTS])
def test_what_is_no_prompt_file_is_named_by_its_content_under_any_name(name: str, content: bytes, said: str) -> None:
    assert complaint(name, content, column="x" if name == "p.csv" else None).startswith(f"{name}: this is {said}")


@pytest.mark.parametrize(("content", "said"), CONTENTS, ids=[said.split(";")[0] for _, said in CONTENTS])
def test_standard_input_has_the_same_rules_and_its_own_name(content: bytes, said: str) -> None:
    assert complaint("-", stdin=content).startswith(f"standard input: this is {said.split(';')[0]}; ")


def test_compressed_lines_are_read_where_the_name_says_so() -> None:
    assert texts(frozen("p.jsonl.gz", gzipped(LINES))) == ["one", "two"]
    assert texts(frozen("p.TXT.GZ", gzipped(b"a\r\nb\r\n"))) == ["a", "b"]
    assert texts(frozen("p.json.gz", gzipped(b'["x", "y"]'))) == ["x", "y"]
    assert texts(frozen("p.tsv.gz", gzipped(b"i\tq\n1\tz\n"), column="q")) == ["z"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl.gz", gzipped(gzipped(LINES)), "p.jsonl.gz: this is gzip-compressed twice; gunzip it first"),
        ("p.jsonl", gzipped(LINES), "p.jsonl: this is gzip-compressed; gunzip it first, or name it .jsonl.gz"),
        ("p.jsonl.gz", LINES, "p.jsonl.gz: not gzip-compressed, though its name ends in .gz; rename it"),
        ("p.gz", gzipped(LINES), "p.gz: the name does not say what the .gz holds; name it .jsonl.gz"),
        (
            "p.parquet.gz",
            gzipped(b"PAR1"),
            "p.parquet.gz: a .parquet inside gzip cannot be read; gunzip it first",
        ),
        ("p.docx.gz", gzipped(b"hello"), "p.docx.gz: unknown kind of file '.docx'"),
        ("p.jsonl.gz", gzipped(LINES * 999)[:40], "p.jsonl.gz: its gzip data is damaged or cut short"),
        ("p.jsonl.gz", gzipped(LINES)[:-8] + bytes(8), "p.jsonl.gz: its gzip data is damaged or cut short"),
        ("p.jsonl.gz", gzipped(LINES)[:10] + b"\xff" * 40, "p.jsonl.gz: its gzip data is damaged or cut short"),
        ("p.jsonl.gz", gzipped(LINES) + b"rest", "p.jsonl.gz: its gzip data is damaged or cut short"),
        ("p.jsonl.gz", gzipped(b""), "p.jsonl.gz: it is empty"),
        ("p.txt.gz", gzipped(POINTER), "p.txt.gz: this is a Git LFS pointer"),
        ("p.txt.gz", POINTER, "p.txt.gz: this is a Git LFS pointer"),
        ("p.txt.gz", gzipped("a\n".encode("utf-16")), "p.txt.gz:1: the file is UTF-16, not UTF-8"),
        ("p.jsonl.gz", gzipped(b'{"prompt": 3}\n'), "p.jsonl.gz:1: `prompt` must be a string, not a number"),
        ("p.parquet", b"hello", "p.parquet: this Parquet file cannot be read"),
        ("p.parquet", POINTER, "p.parquet: this is a Git LFS pointer"),
    ],
)
def test_compressed_files_and_names_that_do_not_fit_are_told_apart(name: str, content: bytes, said: str) -> None:
    assert complaint(name, content, column="x" if "parquet" in name else None).startswith(said)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.json", "p.csv", "-"])
def test_wide_encodings_without_a_mark_are_recognised_by_their_zero_bytes(name: str, encoding: str) -> None:
    content = '{"prompt": "Wie geht es dir, Jörg? 你好"}\r\n'.encode(encoding)
    said = complaint("-", stdin=content) if name == "-" else complaint(name, content, column=None)
    known = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    place = "standard input" if name == "-" else name
    assert said.splitlines()[-1] == (
        f"{place}:1: the file is {known}, not UTF-8; convert it with `iconv -f {known} -t UTF-8`"
    )


def test_a_few_zero_bytes_make_no_wide_encoding() -> None:
    assert texts(frozen("p.txt", b"a\0b and some more text\nnext\0\n")) == ["a\0b and some more text", "next\0"]


@pytest.mark.parametrize("prompt", ["version https://example.org", "PAR1 is a gene", "BZh what?", "< html >", "PK"])
def test_text_that_only_resembles_such_a_content_is_text(prompt: str) -> None:
    assert texts(frozen("p.txt", prompt + "\n")) == [prompt]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"one\rtwo\rthree\r", "p.txt: its lines end in a carriage return (CR) alone"),
        ("p.txt", b"one\rtwo\n", "p.txt: its lines end in a carriage return (CR) alone"),
        ("p.jsonl", b'{"prompt": "a"}\r{"prompt": "b"}\r', "p.jsonl: its lines end in a carriage return"),
        ("p.csv", b"prompt\ra\rb", "p.csv: its lines end in a carriage return"),
    ],
)
def test_lines_that_end_as_on_old_macs_are_not_one_giant_prompt(name: str, content: bytes, said: str) -> None:
    found = complaint(name, content, column="prompt" if name == "p.csv" else None)
    assert found.startswith(said)
    assert "`tr '\\r' '\\n'`" in found


def test_a_single_line_may_end_as_on_windows() -> None:
    assert texts(frozen("p.txt", b"one\r\n")) == ["one"]


def test_a_file_that_ends_within_a_character_was_cut_off() -> None:
    assert complaint("p.txt", "fine\nschö".encode()[:-1]) == (
        "p.txt:2: not UTF-8 (byte 0xc3 at offset 8 of the file begins a character that is cut off); get the whole file"
    )


def test_a_pipe_is_refused_and_waits_for_nobody() -> None:
    os.mkfifo("p.jsonl")
    assert complaint("p.jsonl") == "p.jsonl: this is a pipe or a device, not a file; give it as standard input: -"
    assert paths.why_unreadable("p.jsonl", None) == (
        "p.jsonl is a pipe or a device, not a file; give it as standard input: -"
    )
    os.symlink("/dev/zero", "p.txt")
    assert "a pipe or a device" in complaint("p.txt")


def test_a_name_that_no_file_can_have_is_told_in_the_systems_words() -> None:
    assert complaint("p\0.txt") == "p\0.txt: cannot be read: embedded null byte"
    long = "x" * 300 + ".txt"
    assert complaint(long) == f"{long}: cannot be read: File name too long"


def test_a_folder_and_a_link_to_itself_are_named() -> None:
    Path("p.txt").mkdir()
    os.symlink("q.txt", "q.txt")
    assert complaint("p.txt") == "p.txt: this is a folder; give the file in it"
    assert complaint("q.txt").startswith("q.txt: cannot be read: ")


def test_standard_input_that_is_longer_than_its_beginning_is_read_to_its_end() -> None:
    lines = [f"prompt number {number}" for number in range(5000)]
    assert texts(frozen("-", stdin="\n".join(lines).encode())) == lines


@pytest.mark.parametrize("size", [HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1])
def test_standard_input_of_about_the_size_of_its_beginning_is_read_once_and_whole(size: int) -> None:
    assert texts(frozen("-", stdin=b"x" * (size - 2) + b"\ny")) == ["x" * (size - 2), "y"]


def test_standard_input_whose_end_was_seen_is_not_asked_again() -> None:
    class Terminal(io.BytesIO):
        ended = False

        def read(self, size: int | None = -1, /) -> bytes:
            assert not self.ended, "a terminal would have to be told twice that this is the end"
            data = super().read(size)
            self.ended = len(data) < (size or 0)
            return data

    with opened("-", Terminal(b"one\ntwo\n"), Problems("standard input")) as file:
        assert file.readlines() == [b"one\n", b"two\n"]


def test_empty_standard_input_is_named() -> None:
    assert complaint("-", stdin=b"") == "standard input: it is empty"
    assert complaint("-", stdin=b"\n \n") == "standard input: there is no prompt in it"
