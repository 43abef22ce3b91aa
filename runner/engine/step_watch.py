"""Watches `generate` at work: counts steps, reports progress, marks rows, ends a call. Knows transformers' criteria.

Counting relies on `generate` asking its criteria after every token, with the whole rows, and stopping when they say so.
The width of the rows shows whether it does: a version that does not is refused, since all figures would be wrong.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers

from rankdeck.runner.engine.base import OnStep
from rankdeck.runner.engine.decoding.clock import BatchClock
from rankdeck.runner.engine.generation.logit_rules import RowRules
from rankdeck.runner.engine.generation.marks import LogitCheck, Marks
from rankdeck.runner.engine.private_names import NEWEST, OLDEST


class StepWatch(BatchClock, transformers.StoppingCriteria):
    """Counts the steps of a batch and ends a call of `generate` once enough of its rows have ended.

    `on_step` gets progress a few times a second, `cancelled` is asked at every step, `synchronise` waits for the device
    before a clock is read. `measure` keeps the time of every step. `marks` has the rows of the call that end by
    something else than an end-of-sequence token; `logit_check` marks those whose logits are no numbers.
    """

    def __init__(
        self,
        prompt_width: int,
        eos_tokens: frozenset[int],
        device: torch.device,
        logit_check: LogitCheck,
        *,
        on_step: OnStep,
        cancelled: Callable[[], bool],
        synchronise: Callable[[], None],
        measure: bool,
    ) -> None:
        super().__init__(on_step=on_step, cancelled=cancelled, synchronise=synchronise, measure=measure)
        self._eos = torch.tensor(sorted(eos_tokens), dtype=torch.long, device=device)  # [end-of-sequence tokens]
        self.device, self.prompt_width = device, prompt_width
        self.logit_check = logit_check
        self.begin(0, None, None)

    def begin(self, rows: int, rules: RowRules | None, leaving: int | None) -> None:
        """Begin a call of `generate` on `rows` rows, to be ended once `leaving` of them have ended.

        If that is None, it goes on until all have. `rules` may end rows, too.
        """
        self._group_width: int | None = None
        self._leaving, self._rules = leaving, rules
        self._ended = torch.zeros(rows, dtype=torch.bool, device=self._eos.device)  # [rows]
        self._go_on = torch.zeros_like(self._ended)  # [rows]
        self.marks = self.logit_check.marks = Marks(rows, self._eos.device)
        self.logit_check.step = self.steps + 1

    def begin_group(self, rows: int, rules: RowRules | None, width: int) -> None:
        """Begin a call of `generate` that makes the first new token of some of the rows, `width` wide."""
        self.begin(rows, rules, None)
        self.logit_check.step = 1
        self._group_width = width

    def check(self, ids: torch.Tensor) -> None:
        """Raise RuntimeError unless `ids`, [rows, width], are as wide as the steps counted so far make them."""
        due = self.prompt_width + self.steps if self._group_width is None else self._group_width + 1
        if ids.shape[1] != due:
            raise RuntimeError(
                f"transformers {transformers.__version__} does not generate as rankdeck expects: rows are "
                f"{ids.shape[1]:,} tokens wide instead of {due:,}, so its steps cannot be counted; install "
                f"another version of transformers ({OLDEST} to {NEWEST} are known to work)"
            )

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if self._group_width is not None:
            return self._group_prefilled(input_ids, scores)
        self.steps += 1
        self.check(input_ids)
        self._mark_ended(input_ids, scores)
        self.logit_check.step = self.steps + 1
        if self.steps == 1:
            self.first_token()
        self.go_on()
        if self.steps > 1:
            # No need to wait for the device: `generate` reads from it at every step, to see which rows have ended,
            # so that the time between two calls is that of a step.
            self.stepped()
        self.report(lambda: self._real_tokens(input_ids))
        marked = self.marks.values > 0
        if self._leaving is None:
            return marked
        self._ended |= torch.isin(input_ids[:, -1], self._eos) | marked
        # All rows or none: with some, `generate` would pad them and go on with the others.
        return (self._ended.sum() >= self._leaving).expand(len(self._ended))

    def _mark_ended(self, input_ids: torch.Tensor, scores: Any) -> None:
        if self._rules is not None and (ended := self._rules.ended(input_ids, scores)) is not None:
            self.marks.set(ended, self.logit_check.step, "stop string")

    def _group_prefilled(self, input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        """Count the groups' prefills as one step, over with the last of them."""
        self.check(input_ids)
        self._mark_ended(input_ids, scores)
        self.go_on()
        self.steps = 1
        self.first_token()
        return self._go_on

    def _real_tokens(self, input_ids: torch.Tensor) -> int:
        new = input_ids[:, self.prompt_width :]  # [rows, steps]
        ended = torch.isin(new, self._eos).int().cumsum(dim=1)  # [rows, steps], end-of-sequence tokens up to here
        # A token is real while none has ended before it: it is 0 up to the end, and 1 at the end itself.
        before = ended - torch.isin(new, self._eos).int()
        real = before == 0
        at = self.marks.set_at[:, None]  # [rows, 1]
        real &= (at == 0) | (torch.arange(new.shape[1], device=new.device) < at)
        return int(real.sum().item())
