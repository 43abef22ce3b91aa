"""A JSON file that cannot be read says where it is wrong, and how to mend it."""

from pathlib import Path

import pytest

from rankdeck.runner.inputs.checkpoint.json_file import BrokenFile, read_object


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", " is empty; fetch it again"),
        (b"\0" * 300, " is empty; fetch it again"),
        (b'{"a": 1,\n "b": x}', ":2:7 is not valid JSON: Expecting value"),
        (b'{"a": [1, 2', ":1:12 is not valid JSON: it ends too early"),
        (b"version https", ":1:1 is not valid JSON: Expecting value"),
        ('{"a": 1}'.encode("utf-16"), " is UTF-16, not UTF-8; save it as UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), " is UTF-16, not UTF-8; save it as UTF-8"),
        (b"\xef\xbb\xbf{}", " begins with a byte order mark, which transformers does not read; save it without"),
        (b'{"a":\n "\xff"}', ":2 is not UTF-8; save it as UTF-8"),
        (b"[1]", " holds a list, not an object ({…})"),
        (b"null", " holds null, not an object ({…})"),
        (b'"text"', " holds a string, not an object ({…})"),
        (b"[" * 100_000, " is nested too deep"),
        (b" \t\r\n\0", " is empty; fetch it again"),
        (b'{"a": 1 \n\n', ":3:1 is not valid JSON: it ends too early"),
        (b'{"a": 1} x', ":1:10 is not valid JSON: Extra data"),
        (b"true", " holds true or false, not an object ({…})"),
        (b"1.5", " holds a number, not an object ({…})"),
        (b" " * 64 + b'{"a": "\0"}', ":1:72 is not valid JSON: Invalid control character at"),
        (b"\xff", ":1 is not UTF-8; save it as UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BrokenFile) as caught:
        read_object(path)
    assert str(caught.value) == f"{path}{said}"


def test_what_transformers_reads_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": NaN, "ü": [1, {"b": null}]}')
    assert read_object(path)["ü"] == [1, {"b": None}]


def test_a_file_that_is_not_there_or_a_folder_is_told(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(BrokenFile, match=said):
            read_object(path)


def test_a_number_of_more_digits_than_python_reads_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1' + "0" * 5000 + "}")
    with pytest.raises(BrokenFile, match=r"config\.json is not valid JSON: Exceeds the limit"):
        read_object(tmp_path / "config.json")


def test_a_link_that_leads_nowhere_names_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("../../blobs/0123")
    with pytest.raises(BrokenFile) as caught:
        read_object(tmp_path / "config.json")
    assert str(caught.value) == (
        f"{tmp_path / 'config.json'} is a link to ../../blobs/0123, which is not there; fetch the model again"
    )
    with pytest.raises(BrokenFile) as caught:
        read_object(tmp_path / "none.json")
    assert str(caught.value) == f"{tmp_path / 'none.json'} cannot be read: No such file or directory"
