"""The header of a safetensors file: eight bytes of length, little-endian, then JSON, then the tensors' bytes.

Reads headers, never weights. The format: https://github.com/huggingface/safetensors, section "Format".
"""

import math
from pathlib import Path
from typing import Any

import msgspec

from rankdeck.runner.inputs.checkpoint.json_file import BrokenFile, why_unreadable

HEADER_BYTES = 100_000_000
"""safetensors reads no longer header."""

BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32},
    **{"I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
"""The dtypes of the format, and the bits of a value of each."""

OTHER_FORMATS = (
    (b"PK\x03\x04", "a file of torch.save (.bin)"),
    (b"\x80\x02\x8a", "a file of torch.save (.bin)"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"<", "a web page"),
    (b"{", "text"),
    (b"version ", "text"),
)


class Tensor(msgspec.Struct, frozen=True):
    """What a header says of a tensor. `data_offsets`: its first byte and the one behind its last, in the data."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def raw_header(path: Path) -> dict[str, Any]:
    """What a file says of its tensors, by name, unchecked.

    Raises:
        BrokenFile: it is no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if size < 10 or not 2 <= length <= min(HEADER_BYTES, size - 8):
                raise BrokenFile(f"{path} {_what_else(first, length, size)}")
            header = msgspec.json.decode(file.read(length), type=dict[str, Any])
    except OSError as error:
        raise BrokenFile(why_unreadable(path, error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BrokenFile(f"{path} is not a safetensors file: its header is not JSON; fetch it again") from None
    header.pop("__metadata__", None)
    return header


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, all of them whole.

    Raises:
        BrokenFile: it is no safetensors file, or cut short, or holds what nobody can read.
    """
    try:
        found = msgspec.convert(raw_header(path), dict[str, Tensor])
    except msgspec.ValidationError as error:
        raise BrokenFile(f"{path} is not a safetensors file: its header is wrong ({error}); fetch it again") from None
    for name, tensor in found.items():
        if tensor.dtype not in BITS:
            raise BrokenFile(f"{path}: {name} has the dtype {tensor.dtype}, which safetensors does not know")
        begin, end = tensor.data_offsets
        if (end - begin) * 8 != math.prod(tensor.shape) * BITS[tensor.dtype]:
            said = f"{tensor.shape} of {tensor.dtype} do not fill its {end - begin:,} bytes"
            raise BrokenFile(f"{path}: {name} is damaged: {said}; fetch the file again")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    size, whole = path.stat().st_size, 8 + length + max((each.data_offsets[1] for each in found.values()), default=0)
    if size < whole:
        raise BrokenFile(f"{path} is cut short: it has {size:,} of {whole:,} bytes; fetch it again")
    if size > whole:
        raise BrokenFile(f"{path} is {size:,} bytes long, and should have {whole:,}; fetch it again")
    return found


def _what_else(first: bytes, length: int, size: int) -> str:
    for begins, what in OTHER_FORMATS:
        if first.startswith(begins):
            return f"is not a safetensors file but {what}"
    if len(first) == 8 and 2 <= length <= HEADER_BYTES:
        return f"is cut short: it has {size:,} bytes, and its header alone {length:,}; fetch it again"
    return "is not a safetensors file; fetch it again"
