"""How the rows of a batch get their next tokens from logits: checked, ruled, with noise where they are sampled.

The same for every step; where `captured`, all of it is on the device and of one shape, so that it can be part of a CUDA
graph. Knows the rules of a run and the state of rows; knows no models.
"""

from collections.abc import Sequence

import torch

from rankdeck.runner.engine.decoding.rows_state import RowsState
from rankdeck.runner.engine.generation.gumbel import BatchNoise, add_noise
from rankdeck.runner.engine.generation.logit_rules import BatchRules, RowRules
from rankdeck.runner.engine.generation.marks import LogitCheck

BLOCK = 256
"""Scores whose largest is found at once on a CPU."""


def likeliest(scores: torch.Tensor) -> torch.Tensor:
    """The first place of the largest in each row, [rows]: of NaN, if there is any.

    On a CPU `argmax` of a whole vocabulary reads one number after the other. The largest of each block is found by
    vector instructions, and only one block has to be looked through: together a sixth of the time.
    """
    width = scores.shape[1]
    if scores.device.type != "cpu" or width < 2 * BLOCK:
        return scores.argmax(dim=-1)
    whole = width // BLOCK * BLOCK
    tops = scores[:, :whole].unflatten(1, (-1, BLOCK)).amax(dim=-1)
    if whole < width:
        tops = torch.cat([tops, scores[:, -BLOCK:].amax(dim=-1, keepdim=True)], dim=1)
    starts = (tops.argmax(dim=-1, keepdim=True) * BLOCK).clamp(max=width - BLOCK)
    block = scores.gather(1, starts + torch.arange(BLOCK))
    return starts[:, 0] + block.argmax(dim=-1)


class TokenChoice:
    """Chooses the tokens of one part, with its prompts padded to `width`.

    `noise` is theirs; None where the likeliest token is taken. With `may_capture` steps are captured where rules allow
    it.
    """

    def __init__(
        self,
        check: LogitCheck,
        rules: BatchRules,
        width: int,
        eos_tokens: frozenset[int],
        device: torch.device,
        noise: BatchNoise | None,
        *,
        may_capture: bool,
    ) -> None:
        self.eos_tokens = eos_tokens
        self._eos = torch.tensor(sorted(eos_tokens), dtype=torch.long, device=device)
        self._check, self._rules, self._width, self._noise = check, rules, width, noise
        self._at_once = rules.at_once() if may_capture else None
        self._of_rows: RowRules | None = None

    @property
    def captured(self) -> bool:
        """Whether a step of this can be captured."""
        return self._at_once is not None

    @property
    def reads(self) -> object:
        """What a captured step reads besides the state of its rows: the same in all batches of a run."""
        return self._eos, self._at_once

    def keys(self, rows: Sequence[int]) -> torch.Tensor | None:
        """The keys of these rows' noise, [rows]."""
        return None if self._noise is None else self._noise.keys(rows)

    def begin(self, rows: Sequence[int]) -> None:
        """From now on the rows are those of these prompts, by position."""
        if not self.captured:
            self._of_rows = self._rules.for_rows(rows, self._width)

    def __call__(self, logits: torch.Tensor, state: RowsState, at: int) -> None:
        """Choose from these logits, float32 [rows, vocabulary], the tokens of the first rows, which go to slot `at`."""
        rows = len(logits)
        self._check.marks, self._check.step = state.marks_of(rows), state.number
        ids = state.ids[:rows]
        scores = self._check(ids, logits)
        if self._at_once is not None:
            for processor in self._at_once:
                scores = processor(ids, scores)
        elif self._of_rows is not None:
            scores = self._of_rows(ids[:, :at], scores)
        if self._noise is not None:
            scores = add_noise(scores, state.keys[:rows], state.number - 1, at_once=self.captured)
        state.write(likeliest(scores))
        if self._of_rows is not None and (ended := self._of_rows.ended(ids[:, : at + 1], scores)) is not None:
            self._check.marks.set(ended, state.number, "stop string")
        state.settle(rows, self._eos)
