"""Which prompts of a batch begin with the same tokens: a system prompt, examples. Found in the token ids. Pure.

Such a prefix is prefilled once, and every row that begins with it starts from its keys and values. That costs a pass of
its own, so it has to save more slots than that.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

LEAST = 32
"""Tokens that prompts must share before it is looked at: fewer are saved by hardly any batch."""

DEPTH = 16
"""How often rows that share a prefix are split into such as share more: each time costs a look at all of them."""

Prefix = tuple[int, ...]
Shared = list[tuple[Prefix, list[int]]]
"""Prefixes, and the positions of the prompts that begin with each; () for those that share none."""


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for place, (token, its) in enumerate(zip(one, other, strict=False)):
        if token != its:
            return place
    return min(len(one), len(other))


def shared_prefixes(
    tokens: Mapping[int, Sequence[int]], pass_slots: int, known: Collection[Prefix] = (), before: Sequence[int] = ()
) -> Shared:
    """Prompts, token ids by position, by what they share; the prefixes that together save most slots.

    `pass_slots` is what a pass costs, in slots. `known` are prefixes that are prefilled already. `before` is a prompt
    of the batch before: what this one shares with it is likely to be shared with the next, too.
    """
    left = dict(tokens)
    found: Shared = []
    for prefix in sorted(known, key=len, reverse=True):
        ats = [at for at, ids in left.items() if len(ids) > len(prefix) and tuple(ids[: len(prefix)]) == prefix]
        # Where they share far more than what is known, the rest is worth a pass of its own.
        longer = min((common(left[ats[0]], left[at]) for at in ats), default=0)
        if ats and (longer - len(prefix)) * (len(ats) - 1) <= pass_slots + len(prefix):
            found.append((prefix, ats))
            for at in ats:
                del left[at]
    rows = [(list(ids), at) for at, ids in left.items()]
    if before:
        rows.append((list(before), -1))
    rows.sort()
    for prefix, ats in _split([ids for ids, _ in rows], [at for _, at in rows], pass_slots, DEPTH)[1]:
        if own := [at for at in ats if at >= 0]:
            found.append((prefix, own))
    alone = [at for prefix, ats in found if not prefix for at in ats]
    return [(prefix, ats) for prefix, ats in found if prefix] + ([((), alone)] if alone else [])


def _split(rows: list[list[int]], ats: list[int], pass_slots: int, depth: int) -> tuple[int, Shared]:
    """Sorted rows by what they share, and the slots that this saves."""
    if len(rows) < 2:
        return 0, [((), ats)]
    alike = [common(one, other) for one, other in pairwise(rows)]
    least = min(alike)
    length = min(least, min(map(len, rows)) - 1)  # a row has a token of its own to go on from
    saved = length * (len(rows) - 1) - pass_slots
    together: tuple[int, Shared] = (0, [((), ats)])
    if length >= LEAST and saved > 0:
        together = (saved, [(tuple(rows[0][:length]), ats)])
    if not depth or max(alike) < LEAST:
        return together
    ends = [place + 1 for place, shared in enumerate(alike) if shared == least]
    parts: Shared = []
    saved = 0
    for start, end in pairwise([0, *ends, len(rows)]):
        more, own = _split(rows[start:end], ats[start:end], pass_slots, depth - 1)
        saved, parts = saved + more, [*parts, *own]
    return (saved, parts) if saved > together[0] else together
