"""A file of weights that is not whole, or something else under its name, is told by its header."""

import json
from pathlib import Path
from typing import Any

import pytest

from rankdeck.runner.inputs.checkpoint.json_file import BrokenFile
from rankdeck.runner.inputs.checkpoint.safetensors_file import tensors_of
from tests.checkpoints import POINTER, SHAPES, safetensors


@pytest.fixture
def file(tmp_path: Path) -> Path:
    safetensors(tmp_path / "model.safetensors", SHAPES)
    return tmp_path / "model.safetensors"


def said_of(file: Path) -> str:
    with pytest.raises(BrokenFile) as caught:
        tensors_of(file)
    assert str(caught.value).startswith(str(file))
    return str(caught.value).removeprefix(str(file))


def with_header(file: Path, header: Any, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_a_whole_file_gives_its_tensors(file: Path) -> None:
    assert {name: tensor.shape for name, tensor in tensors_of(file).items()} == SHAPES


def test_what_safetensors_itself_writes_is_taken(tmp_path: Path) -> None:
    import safetensors.torch
    import torch

    tensors = {
        name: torch.zeros(shape, dtype=dtype)
        for name, shape, dtype in (
            ("a", [3, 2], torch.float32),
            ("b", [], torch.bool),
            ("c", [0, 4], torch.bfloat16),
            ("d", [5], torch.float8_e4m3fn),
            ("e", [1], torch.int64),
        )
    }
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors", {"format": "pt"})
    assert {name: tensor.shape for name, tensor in tensors_of(tmp_path / "m.safetensors").items()} == {
        name: list(tensor.shape) for name, tensor in tensors.items()
    }


def test_a_file_that_ends_too_early_says_how_many_bytes_it_has_of_how_many(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert said_of(file) == f" is cut short: it has {len(whole) - 100:,} of {len(whole):,} bytes; fetch it again"
    file.write_bytes(whole[:200])
    assert "is cut short: it has 200 bytes, and its header alone " in said_of(file)
    file.write_bytes(whole + b"x")
    assert said_of(file) == f" is {len(whole) + 1:,} bytes long, and should have {len(whole):,}; fetch it again"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a safetensors file"),
        (b"PK\x03\x04" + b"\x08" * 100, "but a file of torch.save (.bin)"),
        (b"GGUF\x03\x00\x00\x00" + b"\x01" * 100, "but a GGUF file"),
        (b"<!DOCTYPE html><html>Log in</html>", "but a web page"),
        (b'{"error": "Invalid username"}', "but text"),
        (b"\x1f\x8b\x08\x00\x11\x22\x33\x44" + b"\x00" * 20, "but compressed with gzip"),
        (POINTER, "but text"),
        (b"\x80\x02\x8a\x0a" + b"\x6c" * 100, "but a file of torch.save (.bin)"),
        (b"\x01" + bytes(7) + b"{" * 9, "is not a safetensors file; fetch it again"),
        (b"\x02" + bytes(7) + b"{", "is cut short: it has 9 bytes, and its header alone 2; fetch it again"),
        ((100_000_001).to_bytes(8, "little") + b"{" * 9, "is not a safetensors file; fetch it again"),
        ((100_000_000).to_bytes(8, "little") + b"{" * 9, "its header alone 100,000,000; fetch it again"),
        (bytes(range(200, 256)), "is not a safetensors file; fetch it again"),
    ],
)
def test_something_else_under_its_name_is_told_by_its_beginning(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    assert said in said_of(file)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"not JSON at all", "its header is not JSON"),
        (b"\xff\xfe\xfd {}", "its header is not JSON"),
        (b"[" * 5000, "its header is not JSON"),
        ([1, 2], "its header is not JSON"),
        ({"a": {"shape": [1]}}, "its header is wrong"),
        ({"a": {"dtype": "F16", "shape": ["2"], "data_offsets": [0, 4]}}, "its header is wrong"),
        ({"a": {"dtype": "Q4", "shape": [2], "data_offsets": [0, 1]}}, "a has the dtype Q4"),
        (
            {"a": {"dtype": "F16", "shape": [3], "data_offsets": [0, 4]}},
            "a is damaged: [3] of F16 do not fill its 4 bytes",
        ),
    ],
)
def test_a_header_that_is_none_is_told(file: Path, header: Any, said: str) -> None:
    with_header(file, header, b"0000")
    assert said in said_of(file)


def test_a_link_that_leads_nowhere_names_what_is_not_there(file: Path) -> None:
    file.unlink()
    file.symlink_to("../../blobs/0123")
    assert said_of(file) == " is a link to ../../blobs/0123, which is not there; fetch the model again"


BYTES_OF_8_VALUES = {
    8: ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    16: ("I16", "U16", "F16", "BF16"),
    32: ("I32", "U32", "F32"),
    64: ("I64", "U64", "F64", "C64"),
    4: ("F4",),
    6: ("F6_E2M3", "F6_E3M2"),
}


@pytest.mark.parametrize(("size", "dtype"), [(size, dtype) for size, all in BYTES_OF_8_VALUES.items() for dtype in all])
def test_eight_values_of_each_dtype_have_its_bytes_and_no_other_number(tmp_path: Path, size: int, dtype: str) -> None:
    path = tmp_path / "model.safetensors"
    for more in (0, 1):
        header = f'{{"w":{{"dtype":"{dtype}","shape":[2,4],"data_offsets":[0,{size + more}]}}}}'.encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size + more))
        if more:
            with pytest.raises(BrokenFile, match="w is damaged"):
                tensors_of(path)
        else:
            assert list(tensors_of(path)) == ["w"]


def test_a_file_without_tensors_is_whole_and_what_is_said_of_the_file_is_no_tensor(file: Path) -> None:
    for header in ({}, {"__metadata__": {"format": "pt"}}):
        with_header(file, header)
        assert tensors_of(file) == {}


def test_the_tensor_that_ends_last_decides_how_long_a_file_must_be(file: Path) -> None:
    header = {
        "last": {"dtype": "F16", "shape": [3], "data_offsets": [2, 8]},
        "first": {"dtype": "F16", "shape": [], "data_offsets": [0, 2]},
    }
    with_header(file, header, bytes(8))
    assert list(tensors_of(file)) == ["last", "first"]
    with_header(file, header, bytes(7))
    assert "is cut short" in said_of(file)
