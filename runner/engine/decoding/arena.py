"""Where the keys and values of a batch lie: allocated once, written in place, read as far as a step needs.

Rows of transformers' own cache grow by copying all of it at every token. Here a row has its slots from the start: the
prefill of a group of prompts writes straight into its rows, each step writes one slot, and the rows that are left over
when others leave are moved within. What a step reads is a view, so that nothing is ever copied for its size alone.

Knows transformers' cache layers; knows no models, tokens or batches.
"""

from dataclasses import dataclass

import torch
import transformers
from transformers.cache_utils import CacheLayerMixin

BLOCK, LEAST_BLOCK = 128, 16
"""Slots whose keys lie together for lookups, at most and a multiple of: of the last block all is read, used or not."""


@dataclass
class Place:
    """What the next forward pass reads and writes: the same for all layers.

    It works on `rows` rows from `first_row` on, and writes its tokens to the slots from `at` on. It reads all slots
    from `start` to the last that it writes; or, if `device_at` is there, the slots up to `start + slots`, and writes a
    single one, whose number the device knows: [1]. `by_lookup` is whether attention reads from tables. Where tokens of
    several rows come as one, `scattered` has the row and the slot of each, [tokens] both; they are not read from there.
    """

    first_row: int = 0
    rows: int = 0
    start: int = 0
    at: int = 0
    slots: int = 0
    device_at: torch.Tensor | None = None
    by_lookup: bool = False
    scattered: tuple[torch.Tensor, torch.Tensor] | None = None


class ArenaLayer(CacheLayerMixin):
    """Keys and values of one layer, each [rows, heads, slots, width]; made when the first of them come."""

    is_sliding = False

    def __init__(self, place: Place, rows: int, slots: int) -> None:
        super().__init__()
        self._place, self._rows, self._slots = place, rows, slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for keys and values like these, [rows, heads, tokens, width]."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            states.new_zeros(self._rows, states.shape[1], self._slots, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write these, [rows, heads, tokens, width], to their place; return all that is to be read, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place, tokens = self._place, key_states.shape[2]
        if place.scattered is not None:
            self._scatter(key_states, value_states, *place.scattered)
            return self._after_known(key_states, value_states, 1)
        end = place.start + place.slots if place.device_at is not None else place.at + tokens
        read = []
        for held, states in ((self.keys, key_states), (self.values, value_states)):
            assert held is not None
            view = held[place.first_row : place.first_row + place.rows, :, place.start : end]
            if place.device_at is None:
                view[:, :, place.at - place.start :] = states
            else:
                view.index_copy_(2, place.device_at, states)
            read.append(view)
        return read[0], read[1]

    def _scatter(
        self, key_states: torch.Tensor, value_states: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor
    ) -> None:
        """Write each token of these, [1, heads, tokens, width], to its row and slot."""
        for held, states in ((self.keys, key_states), (self.values, value_states)):
            assert held is not None
            held[rows, :, slots] = states[0].transpose(0, 1)

    def _after_known(
        self, key_states: torch.Tensor, value_states: torch.Tensor, rows: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """These after those of the same rows that they go on from."""
        place = self._place
        if place.at == place.start:
            return key_states, value_states
        keys, values = self.dense(place.first_row, rows, place.start, place.at)
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def clear(self, rows: int, slots: int) -> None:
        """Zero the first slots of the first rows: a masked slot has no weight, but no weight times NaN is NaN."""
        for held in (self.keys, self.values):
            if held is not None:
                held[:rows, :, :slots].zero_()

    def move(self, sources: torch.Tensor, targets: torch.Tensor, slots: int) -> None:
        """Copy the first slots of rows `sources` to rows `targets`, [rows] each, none of them in both."""
        for held in (self.keys, self.values):
            assert held is not None
            held[:, :, :slots].index_copy_(0, targets, held[:, :, :slots].index_select(0, sources))

    def begin_with(self, keys: torch.Tensor, values: torch.Tensor, first_row: int, rows: int, start: int) -> None:
        """Begin `rows` rows, from slot `start` on, with keys and values, [1, heads, tokens, width]."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        for held, given in ((self.keys, keys), (self.values, values)):
            assert held is not None
            held[first_row : first_row + rows, :, start : start + given.shape[2]] = given

    def dense(self, first_row: int, rows: int, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of some rows and slots, each [rows, heads, slots, width]."""
        assert self.keys is not None
        assert self.values is not None
        place = slice(first_row, first_row + rows), slice(None), slice(start, end)
        return self.keys[place], self.values[place]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many slots a pass of so many tokens reads, and the first of them."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """How many slots are read of earlier passes."""
        return self._place.at - self._place.start

    def get_max_length(self) -> int:
        """No maximum that a model need know of."""
        return -1


class LookupLayer(ArenaLayer):
    """Keys and values of one layer as `lookup_attention` reads them.

    Keys are laid out in blocks of slots, [blocks, rows, heads, width, slots of a block], values as ever. A prefill
    attends to what it is given itself.
    """

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for keys and values like these, [rows, heads, tokens, width]."""
        self.dtype, self.device = key_states.dtype, key_states.device
        blocks = -(-self._slots // BLOCK)
        self._block = -(-self._slots // (blocks * LEAST_BLOCK)) * LEAST_BLOCK
        _, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(blocks, self._rows, heads, width, self._block)
        self.values = value_states.new_zeros(self._rows, heads, self._slots, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write these, [rows, heads, tokens, width], to their place; return what attention is to have.

        A step has the tables, a prefill these tokens after those that it goes on from.
        """
        place = self._place
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        if place.scattered is not None:
            self._scatter(key_states, value_states, *place.scattered)
            return self._after_known(key_states, value_states, 1)
        self._write(key_states, value_states, place.first_row, place.rows, place.at)
        if place.by_lookup:
            return self.keys, self.values
        return self._after_known(key_states, value_states, place.rows)

    def _scatter(
        self, key_states: torch.Tensor, value_states: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor
    ) -> None:
        """See `ArenaLayer._scatter`."""
        assert self.keys is not None
        assert self.values is not None
        self.keys[slots // self._block, rows, :, :, slots % self._block] = key_states[0].transpose(0, 1)
        self.values[rows, :, slots] = value_states[0].transpose(0, 1)

    def clear(self, rows: int, slots: int) -> None:
        """See `ArenaLayer.clear`."""
        if self.keys is not None and self.values is not None:
            self.keys[: -(-slots // self._block), :rows].zero_()
            self.values[:rows, :, :slots].zero_()

    def move(self, sources: torch.Tensor, targets: torch.Tensor, slots: int) -> None:
        """See `ArenaLayer.move`."""
        assert self.keys is not None
        assert self.values is not None
        for block in self.keys[: -(-slots // self._block)]:
            block.index_copy_(0, targets, block.index_select(0, sources))
        self.values[:, :, :slots].index_copy_(0, targets, self.values[:, :, :slots].index_select(0, sources))

    def begin_with(self, keys: torch.Tensor, values: torch.Tensor, first_row: int, rows: int, start: int) -> None:
        """See `ArenaLayer.begin_with`."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self._write(keys, values, first_row, rows, start)

    def dense(self, first_row: int, rows: int, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ArenaLayer.dense`."""
        assert self.keys is not None
        assert self.values is not None
        mine = slice(first_row, first_row + rows)
        blocks = range(start // self._block, -(-end // self._block))
        keys = torch.cat([self.keys[block, mine] for block in blocks], dim=3)
        first = blocks.start * self._block
        return keys[:, :, :, start - first : end - first].transpose(2, 3), self.values[mine, :, start:end]

    def _write(self, keys: torch.Tensor, values: torch.Tensor, first_row: int, rows: int, at: int) -> None:
        assert self.keys is not None
        assert self.values is not None
        mine, tokens, done = slice(first_row, first_row + rows), keys.shape[2], 0
        self.values[mine, :, at : at + tokens] = values
        while done < tokens:
            block, first = divmod(at + done, self._block)
            count = min(tokens - done, self._block - first)
            self.keys[block, mine, :, :, first : first + count] = keys[:, :, done : done + count].transpose(2, 3)
            done += count


class Arena:
    """The keys and values of all layers, for `rows` rows of `slots` tokens; `cache` is what a model is given.

    With `by_lookup` they are laid out for `lookup_attention`.
    """

    def __init__(self, layers: int, rows: int, slots: int, *, by_lookup: bool = False) -> None:
        self.rows, self.slots, self.place = rows, slots, Place()
        kind = LookupLayer if by_lookup else ArenaLayer
        self.layers = [kind(self.place, rows, slots) for _ in range(layers)]
        self.cache = transformers.Cache(layers=self.layers)

    def clear(self, rows: int, slots: int) -> None:
        """Zero the first slots of the first rows."""
        for layer in self.layers:
            layer.clear(rows, slots)

    def put(self, other: "Arena", first_row: int, rows: int, start: int) -> None:
        """Begin `rows` rows, from slot `start` on, with the keys and values of the only row of another arena."""
        for layer, its in zip(self.layers, other.layers, strict=True):
            layer.begin_with(*its.dense(0, 1, 0, other.slots), first_row, rows, start)

    def move(self, sources: torch.Tensor, targets: torch.Tensor, slots: int) -> None:
        """Copy the first slots of rows `sources` to rows `targets`, [rows] each, none of them in both."""
        for layer in self.layers:
            layer.move(sources, targets, slots)

    def held(self) -> list[torch.Tensor]:
        """All keys and values, as far as they are allocated."""
        held = (part for layer in self.layers for part in (layer.keys, layer.values))
        return [part for part in held if part is not None]
