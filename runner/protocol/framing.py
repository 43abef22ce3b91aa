"""One message a line: how messages are tagged and written, and how long a line may be."""

import json
import re

import msgspec

PROTOCOL_VERSION = 2
"""Of what is sent between a run and its viewers. A journal of an older version can still be read."""

MAX_LINE_BYTES = 32 * 1024 * 1024
"""No message is longer: whoever sends a longer line is cut off before it fills memory."""


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=_snake):
    """Anything that is sent. Its tag is its class name in snake case, unless the class sets another."""


_encoder = msgspec.json.Encoder()


def encode(struct: msgspec.Struct) -> bytes:
    """It as JSON. A lone surrogate, as in an error about a file whose name is not UTF-8, becomes "?".

    Whoever waits for a message that could not be encoded would wait forever.
    """
    try:
        return _encoder.encode(struct)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(struct), ensure_ascii=False).encode("utf-8", "replace")
        return _encoder.encode(json.loads(text))  # once more by msgspec, which writes NaN as null


def encode_line(message: msgspec.Struct) -> bytes:
    """One message as one line of JSON, newline included (JSON escapes newlines inside strings)."""
    return encode(message) + b"\n"


GREETINGS = "rankdeck greetings: "
"""Marks the line in which the main process of `rankdeck hello` prints what it gathered."""
