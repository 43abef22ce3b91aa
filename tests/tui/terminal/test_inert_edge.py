"""The edge of a command's text: which stream a line goes to, what of it is made visible, what a failed stream does."""

import errno
import io
import json
import sys

import pytest

from rankdeck.tui.terminal import inert
from rankdeck.tui.terminal.inert import InertStream, OutputError, guard_streams, say, say_json, tell, unguarded

EVIL = "a\x1b[2Jb\nc"


def test_the_product_goes_to_standard_output_and_talk_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    assert capsys.readouterr() == ("a␛[2Jb↵c\n", ""), "a line stays one line"
    tell(EVIL)
    assert capsys.readouterr() == ("", "a␛[2Jb↵c\n")
    line = json.dumps({"text": "a\x7f\u202eb"}, ensure_ascii=False)
    say_json(f"{line}\n")
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    assert "\x7f" not in out
    assert "\u202e" not in out
    assert json.loads(out) == json.loads(line), "the same data"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "utf-8", "UTF8"])
def test_json_is_json_in_whatever_encoding_the_output_has(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    line = json.dumps({"text": "é 😀 \u2028 \ud83d"}, ensure_ascii=False)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace"))
    say_json(line)
    sys.stdout.flush()
    written = raw.getvalue()
    assert json.loads(written.decode("utf-16" if encoding == "utf-16" else "utf-8")) == json.loads(line)
    assert ("é".encode() in written) is (encoding in ("utf-8", "UTF8"))


class Failing(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code, self.tried = code, 0

    def write(self, _: str) -> int:
        self.tried += 1
        raise OSError(self.code, "No room")

    def flush(self) -> None:
        raise OSError(self.code, "No room")


def test_a_stream_that_is_needed_says_why_it_fails_and_one_that_is_not_is_left() -> None:
    for fails in (InertStream.flush, lambda stream: stream.write("x")):
        with pytest.raises(OutputError, match=r"^standard output cannot be written: No room$"):
            fails(InertStream(Failing(errno.ENOSPC)))
        fails(InertStream(Failing(errno.ENOSPC), needed=False))
        for needed in (True, False):
            with pytest.raises(BrokenPipeError):  # its reader has left, which is no error
                fails(InertStream(Failing(errno.EPIPE), needed=needed))


def test_an_empty_write_tries_nothing() -> None:
    stream = Failing(errno.ENOSPC)
    assert InertStream(stream).write("") == 0
    assert stream.tried == 0


def test_a_guarded_stream_takes_the_whole_text_keeps_its_lines_and_is_otherwise_itself() -> None:
    stream = io.StringIO()
    guarded = InertStream(stream)
    assert guarded.write(EVIL) == len(EVIL), "to its writer all of it was written"
    assert stream.getvalue() == "a␛[2Jb\nc"
    assert guarded.getvalue() == stream.getvalue()
    assert unguarded(guarded) is stream  # type: ignore[arg-type]
    assert unguarded(stream) is stream
    for name in ("buffer", "writelines", "reconfigure", "detach"):
        assert not hasattr(InertStream(io.TextIOWrapper(io.BytesIO())), name)


def test_streams_are_guarded_once_and_only_standard_output_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="ascii"), Failing(errno.ENOSPC)
    monkeypatch.setattr(inert.sys, "stdout", out)
    monkeypatch.setattr(inert.sys, "stderr", err)
    guard_streams()
    guarded = inert.sys.stdout
    guard_streams()
    assert inert.sys.stdout is guarded
    assert unguarded(guarded) is out
    say("ä")
    assert out.buffer.getvalue() == b"\\xe4\n", "written as its code"  # type: ignore[attr-defined]
    tell("lost")  # nobody needs it
    monkeypatch.setattr(inert.sys, "stdout", Failing(errno.ENOSPC))
    monkeypatch.setattr(inert.sys, "stderr", None)
    guard_streams()
    assert inert.sys.stderr is None, "a stream that was closed"
    with pytest.raises(OutputError):
        say("x")
