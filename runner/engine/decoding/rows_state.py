"""What a decode step knows of its rows, all of it on the device and at a fixed place: a captured step finds it there.

Knows tensors of rows; knows no models, no caches, and not how a token is chosen.
"""

import torch

from rankdeck.runner.engine.decoding.part import Group, Part
from rankdeck.runner.engine.generation.marks import Marks


def _groups(part: Part) -> list[Group]:
    """The group of each row."""
    return [group for group in part.groups for _ in group.at]


class RowsState:
    """The rows of a batch, up to `rows` of them, with `slots` slots each and up to `new_tokens` new tokens.

    `visible` and `hidden` are how the attention in use writes that a slot is seen, or not.
    """

    def __init__(
        self, rows: int, slots: int, new_tokens: int, device: torch.device, dtype: torch.dtype, pad: int
    ) -> None:
        self.rows, self.slots, self.new_tokens, self._pad = rows, slots, new_tokens, pad
        self.visible: bool | float = True if dtype == torch.bool else 0.0
        self.hidden: bool | float = False if dtype == torch.bool else torch.finfo(dtype).min

        def whole(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.long, device=device)

        self.token = whole(rows, 1)  # the last of each row: what the next step is given
        self.position = whole(rows, 1)  # of that token, without padding
        self.mask = torch.full((rows, 1, 1, slots), self.hidden, dtype=dtype, device=device)
        self.ids = whole(rows, slots)  # prompts with their padding, then new tokens
        self.answers = whole(rows, new_tokens)
        self.counts = whole(rows)  # real new tokens
        self.ended = torch.ones(rows, dtype=torch.bool, device=device)
        self.marks = Marks(rows, device)
        self.keys = torch.zeros(rows, dtype=torch.int32, device=device)  # of the noise that chooses tokens
        self.at = whole(1)  # the slot that the next step writes
        self.number = whole(1)  # of the next new token, from 1 on
        self.status = whole(rows)  # counts, doubled, and one more where a row has ended: one thing to read

    def begin(self, part: Part, keys: torch.Tensor | None, *, own_padding: bool) -> None:
        """Take the prompts of a part; what is left of another batch is gone.

        Rows beyond them are there for the size of a step: they have ended before they begin. With `own_padding` a row's
        padding, and all that it has not said yet, is a token of its own in `ids`: it has no others then. There a prompt
        stands in one piece, whatever slots its prefix has.
        """
        prompts, width = [part.tokens[at] for at in part.rows], part.width
        count = len(prompts)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids = torch.full((self.rows, self.slots), self._pad)
        for row, prompt in enumerate(prompts):
            if own_padding:
                ids[row] = prompt[-1]
            ids[row, width - len(prompt) : width] = torch.tensor(prompt)
        mask = torch.full((self.rows, self.slots), self.hidden, dtype=self.mask.dtype)
        for row, (group, prompt) in enumerate(zip(_groups(part), prompts, strict=True)):
            known, start = len(group.prefix), width - group.reach
            mask[row, start : start + known] = self.visible
            mask[row, width - (len(prompt) - known) : width] = self.visible
        mask[count:, 0] = self.visible  # of a row that sees nothing the logits are no numbers
        self.mask.copy_(mask[:, None, None])
        self.ids.copy_(ids)
        self.position.zero_()
        self.position[:count, 0] = lengths.to(self.position.device)
        self.ended.fill_(True)
        self.ended[:count] = False
        for held in (self.token, self.answers, self.counts, self.status, self.marks.values):
            held.zero_()
        if keys is not None:
            self.keys[:count] = keys
        self.at.fill_(width)
        self.number.fill_(1)

    def marks_of(self, rows: int) -> Marks:
        """The marks of the first rows, at their place."""
        return Marks(rows, self.marks.values.device, self.marks.values[:rows])

    def write(self, token: torch.Tensor) -> None:
        """Write down the new token of each of the first rows, [rows]."""
        rows = len(token)
        self.answers[:rows].index_copy_(1, self.number - 1, token[:, None])
        self.ids[:rows].index_copy_(1, self.at, token[:, None])
        self.token[:rows].copy_(token[:, None])

    def settle(self, rows: int, eos: torch.Tensor) -> None:
        """Note which of the first rows their new token has ended: it is one of `eos`, [tokens], or the row is marked.

        Rows that had ended go on as all do, but nothing of it counts.
        """
        self.counts[:rows].add_(~self.ended[:rows])
        over = (self.token[:rows] == eos).any(dim=1) | (self.marks.values[:rows] > 0)
        self.ended[:rows].logical_or_(over)
        self.status[:rows].copy_(self.counts[:rows] * 2 + self.ended[:rows])
        self.mask[:rows].index_fill_(3, self.at, self.visible)
        self.number.add_(1)

    def moved_on(self, rows: int) -> None:
        """The last token's keys and values are written: go on with the slot and the position after it."""
        self.at.add_(1)
        self.position[:rows].add_(1)

    def move(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Put rows `sources` into the places `targets`, [rows] each, none of them in both; what is left has ended."""
        for held in self._held():
            held.index_copy_(0, targets, held.index_select(0, sources))
        self.ended.index_fill_(0, sources, True)

    def _held(self) -> tuple[torch.Tensor, ...]:
        return (
            self.token, self.position, self.mask, self.ids, self.answers, self.counts, self.ended, self.keys,
            self.status, self.marks.values,
        )  # fmt: skip
