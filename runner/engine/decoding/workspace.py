"""What a batch is worked on in: the arena and the state of its rows, and the passes of the model over them.

It is kept from batch to batch where the next one fits. Knows how prompts are laid out in it; knows no loop, no choice
of tokens and no time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from rankdeck.runner.engine.decoding.arena import Arena
from rankdeck.runner.engine.decoding.forward import Forward
from rankdeck.runner.engine.decoding.graphs import Graphs
from rankdeck.runner.engine.decoding.lookup_attention import NAME as LOOKUP
from rankdeck.runner.engine.decoding.part import Group, Part
from rankdeck.runner.engine.decoding.ragged import Layout
from rankdeck.runner.engine.decoding.rows_state import RowsState
from rankdeck.runner.engine.rows import left_padded
from rankdeck.runner.inputs.step_sizes import row_bucket, slot_bucket

PREFIX, GAP = 2, 5
"""Tokens of the prefix that a row is tried with, and the slots that are left empty behind it, and at the end."""

PREFIXES = 4
"""Prefixes that are kept for the next batches, as long as no more are wanted at once."""


class Workspace:
    """The workspace of one model on one device; `pad` fills up prompts.

    With `by_lookup` the attention of a step is `lookup_attention`; with `ragged` prompts are prefilled without padding.
    """

    def __init__(
        self, forward: Forward, device: torch.device, pad: int, *, by_lookup: bool = False, ragged: bool = False
    ) -> None:
        self.forward, self.device, self._pad = forward, device, pad
        self.by_lookup, self.ragged = by_lookup, ragged
        self._arena: Arena | None = None
        self._state: RowsState | None = None
        self._prefixes: dict[tuple[int, ...], Arena] = {}
        self.graphs = Graphs(device)

    def close(self) -> None:
        """Free what is kept between batches."""
        self._leave()
        self._prefixes.clear()

    def _leave(self) -> None:
        self.graphs.forget()
        self._arena = self._state = None

    def forget_prefixes(self) -> None:
        """Have the next batch prefill all that it needs."""
        self._prefixes.clear()

    @property
    def prefixes(self) -> list[tuple[int, ...]]:
        """The prefixes whose keys and values are kept."""
        return list(self._prefixes)

    @property
    def way(self) -> str:
        """What sets it apart from others of the same model, in words."""
        return ", ".join(["ragged"] * self.ragged + ["by lookup"] * self.by_lookup) or "in the loop"

    def told(self, prompts: Sequence[Sequence[int]], said: Sequence[Sequence[int]]) -> torch.Tensor:
        """The logits of these prompts, two or more, as each row goes on with the tokens in `said`, [rows][steps].

        Returns float32 [steps, rows, vocabulary]. One row begins with a prefix that was prefilled apart, with slots
        left empty behind it; the others are prefilled together. Where no prompt is padded, that row is the first, and
        the others have unlike lengths; else it is the last, the longest, and the others need no padding and no mask.
        There are more slots than are needed, as there are where steps are captured. Nothing is kept.
        """
        positions = list(range(len(prompts)))
        cut = 1 if self.ragged else len(prompts) - 1
        groups = [
            Group(ats, max(len(prompts[at]) for at in ats), ragged=self.ragged)
            for ats in (positions[:cut], positions[cut:])
        ]
        lone = 0 if self.ragged else 1
        (at,) = groups[lone].at
        known = tuple(prompts[at][:PREFIX])
        groups[lone] = replace(groups[lone], width=groups[lone].width - len(known) + GAP, prefix=known)
        part = Part({at: list(prompts[at]) for at in positions}, groups, len(said[0]) + GAP)
        kept, self._arena, self._state = (self._arena, self._state), None, None
        try:
            with torch.inference_mode():
                state = self.prepare(part, None, captured=False)
                self.begin_prefixes(part)
                found = [self.prefill(part)]
                for step in range(len(said[0]) - 1):
                    state.write(torch.tensor([row[step] for row in said], device=self.device))
                    state.settle(len(prompts), torch.tensor([], dtype=torch.long, device=self.device))
                    slots = None if self.by_lookup else state.slots
                    found.append(self.pass_on(len(prompts), part.width + step, slots))
            return torch.stack(found)
        finally:
            self._arena, self._state = kept
            self._prefixes.clear()

    def prepare(self, part: Part, keys: torch.Tensor | None, *, captured: bool) -> RowsState:
        """Make room for a part, and begin its rows."""
        rows, slots = len(part.tokens), part.width + part.new_tokens
        if captured:
            rows, slots = row_bucket(rows), slot_bucket(slots)
        arena, state = self._arena, self._state
        if (
            arena is None
            or state is None
            or arena.rows < rows
            or arena.slots < slots
            or state.new_tokens < part.new_tokens
        ):
            self._leave()  # its memory is free before the next one's is taken
            self._arena = arena = Arena(self.forward.layers, rows, slots, by_lookup=self.by_lookup)
            self._state = state = RowsState(
                rows, slots, part.new_tokens, self.device, self.forward.mask_dtype(by_lookup=self.by_lookup), self._pad
            )
        else:
            arena.clear(rows, slots)
        state.begin(part, keys, own_padding=captured)
        return state

    def begin_prefixes(self, part: Part, before: Callable[[], None] = lambda: None) -> int:
        """Prefill the prefixes of a part that are not there yet; how many tokens these were.

        `before` is called before each pass.
        """
        wanted = {group.prefix for group in part.groups if group.prefix}
        for prefix in [prefix for prefix in self._prefixes if prefix in wanted]:
            self._prefixes[prefix] = self._prefixes.pop(prefix)  # the last that is forgotten
        new = wanted - set(self._prefixes)
        for prefix in sorted(new):
            before()
            arena = Arena(self.forward.layers, 1, len(prefix))
            arena.place.rows = 1
            ids = torch.tensor([prefix], device=self.device)
            self.forward.prefill(ids, None, torch.arange(len(prefix), device=self.device)[None], arena)
            self._prefixes[prefix] = arena
        return sum(map(len, new))

    def prefill(self, part: Part, before: Callable[[], None] = lambda: None) -> torch.Tensor:
        """The logits after all prompts, float32 [rows, vocabulary]; their keys and values are in the arena.

        `before` is called before each group. Of the prefixes that it needed few are kept.
        """
        assert self._arena is not None
        place, found, first = self._arena.place, [], 0
        for group in part.groups:
            before()
            known = len(group.prefix)
            rests = [part.tokens[at][known:] for at in group.at]
            place.first_row, place.rows, place.device_at, place.by_lookup = first, len(rests), None, False
            place.start = part.width - group.reach
            if known:
                self._arena.put(self._prefixes[group.prefix], first, len(rests), place.start)
            if group.ragged:
                place.at = place.start + known
                found.append(self._prefill_ragged(rests, known, part.width))
            else:
                place.at = part.width - group.width
                found.append(self._prefill_padded(rests, known, group.width))
            first += len(rests)
        for prefix in list(self._prefixes)[:-PREFIXES]:
            del self._prefixes[prefix]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _prefill_padded(self, rests: list[list[int]], known: int, width: int) -> torch.Tensor:
        """The logits after these rests of prompts, which follow on `known` tokens each, padded to `width`."""
        assert self._arena is not None
        ids, mask = (torch.tensor(rows) for rows in left_padded(rests, width, self._pad))
        positions = known + (mask.cumsum(dim=1) - 1).clamp(min=0)
        if known:
            mask = torch.cat([mask.new_ones(len(mask), known), mask], dim=1)
        seen = None if bool(mask.all()) and not known else mask.to(self.device)
        return self.forward.prefill(ids.to(self.device), seen, positions.to(self.device), self._arena)

    def _prefill_ragged(self, rests: list[list[int]], known: int, end: int) -> torch.Tensor:
        """The logits after these rests of prompts, each after `known` tokens; they go to the slots before `end`."""
        assert self._arena is not None
        place, lengths = self._arena.place, list(map(len, rests))

        def numbers(values: Iterable[int]) -> torch.Tensor:
            return torch.tensor(list(values), device=self.device)

        rows = numbers(place.first_row + row for row, length in enumerate(lengths) for _ in range(length))
        place.scattered = rows, numbers(end - length + at for length in lengths for at in range(length))
        try:
            return self.forward.prefill_ragged(
                numbers(token for rest in rests for token in rest)[None],
                numbers(known + at for length in lengths for at in range(length))[None],
                numbers(accumulate(lengths)) - 1,
                self._arena,
                Layout(lengths, known, self.device),
            )
        finally:
            place.scattered = None

    def pass_on(self, rows: int, at: int, slots: int | None = None) -> torch.Tensor:
        """The logits after the last token of the first rows, which goes to slot `at`: float32 [rows, vocabulary].

        It reads the slots up to there; or, where steps are captured, `slots` of them.
        """
        arena, state = self._arena, self._state
        assert arena is not None
        assert state is not None
        place = arena.place
        place.first_row, place.rows, place.start, place.at = 0, rows, 0, at
        place.slots, place.device_at = slots or 0, None if slots is None else state.at
        place.by_lookup = self.by_lookup
        mask = state.mask[:rows, :, :, : at + 1 if slots is None else slots]
        attention = LOOKUP if self.by_lookup else None
        logits = self.forward.step(state.token[:rows], mask, state.position[:rows], arena, attention)
        state.moved_on(rows)
        return logits

    def move(self, sources: list[int], targets: list[int], slots: int) -> None:
        """Put rows into the places of others, with the first slots of their keys and values."""
        assert self._arena is not None
        assert self._state is not None
        here, there = (torch.tensor(places, device=self.device) for places in (sources, targets))
        self._arena.move(here, there, slots)
        self._state.move(here, there)
