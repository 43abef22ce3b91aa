"""Words of which only some are possible: which ones, and which was probably meant. Pure."""

import difflib
from collections.abc import Iterable

_MEANT = {
    **dict.fromkeys(("fp16", "f16", "half"), "float16"),
    **dict.fromkeys(("bf16", "brainfloat16"), "bfloat16"),
    **dict.fromkeys(("fp32", "f32", "float", "full"), "float32"),
    **dict.fromkeys(("gpu", "gpus", "nvidia"), "cuda"),
    **dict.fromkeys(("8bit", "8-bit", "int8-bnb", "load_in_8bit"), "bnb-8bit"),
    **dict.fromkeys(("4bit", "4-bit", "nf4", "int4", "load_in_4bit"), "bnb-4bit"),
    **dict.fromkeys(("flash", "flash2", "fa2"), "flash_attention_2"),
    **dict.fromkeys(("flash3", "fa3"), "flash_attention_3"),
}
"""What people call it elsewhere."""


def near(name: str, names: Iterable[str], *, like: float = 0.5) -> str:
    """`; did you mean this?` if some of the `names` are like `name`; else nothing."""
    names = list(names)
    meant = _MEANT.get(name.lower())
    likely = [meant] if meant in names else difflib.get_close_matches(name, names, n=3, cutoff=like)
    return f"; did you mean {' or '.join(map(str, likely))}?" if likely else ""


def not_one_of(value: object, choices: Iterable[str]) -> str:
    """What to say of a value that is none of the `choices`."""
    choices = list(choices)
    return f"must be one of {', '.join(choices)}, not {value!r}{near(str(value), choices)}"
