"""The ids of prompts: those a file gives must differ; a prompt without one has its index, which a given one may equal.

Keeps 64 bits of hash a given id, and 5 bytes a prompt; reads the frozen prompts again only if two hashes agree.
"""

import re
from array import array
from collections import Counter
from pathlib import Path

import msgspec

from rankdeck.runner.inputs.prompts.problems import Problems, shown
from rankdeck.runner.protocol import Prompt

DIGEST_MASK = 2**64 - 1
BUCKETS = 256
INDEX = re.compile(r"0|[1-9][0-9]{,8}")

_decoder = msgspec.json.Decoder(Prompt)


class Ids:
    """The ids of a file's prompts, in the order of the prompts."""

    def __init__(self) -> None:
        self._places = array("I")
        self._given = bytearray()
        self._buckets = [array("Q") for _ in range(BUCKETS)]
        self._numbers = array("I")
        """Given ids that may be the index of another prompt."""

    def add(self, given: str | None, place: int) -> str:
        """The id of the next prompt, which stands at `place`; its index if none is `given`."""
        index = len(self._given)
        self._places.append(place)
        self._given.append(given is not None)
        if given is None:
            return str(index)
        digest = hash(given) & DIGEST_MASK
        self._buckets[digest % BUCKETS].append(digest)
        if given.isdecimal() and given != str(index) and INDEX.fullmatch(given):
            self._numbers.append(int(given))
        return given

    def check(self, path: Path, problems: Problems) -> None:
        """Report ids that are given more than once; `path` has the frozen prompts."""
        doubtful = {
            digest
            for bucket in self._buckets
            if len(set(bucket)) < len(bucket)
            for digest, count in Counter(bucket).items()
            if count > 1
        }
        if not doubtful:
            return
        places: dict[str, list[int]] = {}
        with path.open("rb") as file:
            for line, place, given in zip(file, self._places, self._given, strict=True):
                id_ = _decoder.decode(line).id if given else ""
                if given and hash(id_) & DIGEST_MASK in doubtful:
                    places.setdefault(id_, []).append(place)
        for id_, found in places.items():
            if len(found) > 1:
                listed = ", ".join(map(str, found[:5])) + (" …" if len(found) > 5 else "")
                problems.add(f"id {shown(id_)!r} appears more than once, on {problems.unit}s {listed}", found[1])

    def words(self) -> list[str]:
        """What to say where an id that is given is the index of a prompt without one."""
        shared = [number for number in self._numbers if number < len(self._given) and not self._given[number]]
        if not shared:
            return []
        count = f", as are {len(shared) - 1:,} more" if len(shared) > 1 else ""
        return [
            f"id '{shared[0]}' is given, and is also that of a prompt without one, its index{count}; "
            "`index` tells the outputs apart"
        ]
