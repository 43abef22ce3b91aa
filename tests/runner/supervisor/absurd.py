"""Messages that no honest peer sends: of the protocol's own types, with values that cannot be."""

import functools
import random
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

NUMBERS = [-1, -(2**31), 2**63, -(2**63), 10**30, -(10**30), 10**4200]
FLOATS = [float("nan"), float("inf"), float("-inf"), -0.5, 1e308, -1e308]
TEXTS = ["", "x" * 70_000, "\x1b]52;c;aGk=\x07", "\x00\n\r\u2066", "rank 1"]

WEIGHTLESS = {"at", "id", "prompt", "text", "source", "error", "traceback", "prompt_tokens", "last", "kind"}
"""Fields that are not believed, or of which only the rank can know what is true."""


def of_type(kind: Any, luck: random.Random) -> Any:
    """A value of a type that msgspec has inspected, absurd wherever it can be."""
    match kind:
        case inspect.BoolType():
            return luck.random() < 0.5
        case inspect.IntType():
            return luck.choice(NUMBERS)
        case inspect.FloatType():
            return luck.choice(FLOATS)
        case inspect.StrType():
            return luck.choice(TEXTS)
        case inspect.NoneType():
            return None
        case inspect.LiteralType(values=values):
            return luck.choice(values)
        case inspect.ListType(item_type=item):
            return [of_type(item, luck) for _ in range(luck.choice([0, 1, 3]))]
        case inspect.TupleType(item_types=items):
            return tuple(of_type(item, luck) for item in items)
        case inspect.DictType(key_type=key, value_type=value):
            return {of_type(key, luck): of_type(value, luck) for _ in range(luck.choice([0, 1, 3]))}
        case inspect.UnionType(types=types):
            return of_type(luck.choice(types), luck)
        case inspect.StructType(cls=cls, fields=fields):
            return cls(**{field.name: of_type(field.type, luck) for field in fields})
    raise TypeError(f"no absurd value of {kind}")


_inspected = functools.cache(inspect.type_info)


def message(union: Any, luck: random.Random) -> Any:
    """A message of one of these types, every value of it absurd; its rank may be the right one."""
    made = of_type(_inspected(luck.choice(union.__args__)), luck)
    if hasattr(made, "rank") and luck.random() < 0.7:
        made = msgspec.structs.replace(made, rank=luck.choice([0, 1, 2]))
    return made


def mutations(good: msgspec.Struct) -> Iterator[msgspec.Struct]:
    """`good` with one of its numbers absurd, for each number of weight and each absurd value."""
    for field in inspect.type_info(type(good)).fields:
        present = getattr(good, field.name)
        if field.name in WEIGHTLESS:
            continue
        if isinstance(present, msgspec.Struct):
            for changed in mutations(present):
                yield msgspec.structs.replace(good, **{field.name: changed})
        elif (absurd := _absurd_numbers(field.type)) and not isinstance(present, bool):
            for value in absurd:
                yield msgspec.structs.replace(good, **{field.name: value})


def _absurd_numbers(kind: Any) -> list[Any]:
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    if any(isinstance(one, inspect.FloatType) for one in kinds):
        return FLOATS
    return NUMBERS if any(isinstance(one, inspect.IntType) for one in kinds) else []
