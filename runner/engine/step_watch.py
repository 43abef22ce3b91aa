"""Watches `generate` at work: counts steps, reports progress, marks rows, ends a call. Knows transformers' criteria.

Counting relies on `generate` asking its criteria after every token, with the whole rows, and stopping when they say so.
The width of the rows shows whether it does: a version that does not is refused, since all figures would be wrong.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from rankdeck.runner.engine.base import OnStep
from rankdeck.runner.engine.generation.logit_rules import RowRules
from rankdeck.runner.engine.generation.marks import LogitCheck, Marks
from rankdeck.runner.engine.private_names import NEWEST, OLDEST
from rankdeck.runner.engine.rows import PROGRESS_SECONDS, Cancelled, Progress


class StepWatch(transformers.StoppingCriteria):
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
        self.steps = 0
        self.step_seconds: list[float] | None = [] if measure else None
        self._step_at = 0.0
        self.first_token_at = 0.0
        self._eos = torch.tensor(sorted(eos_tokens), dtype=torch.long, device=device)  # [end-of-sequence tokens]
        self.prompt_width = prompt_width
        self._on_step, self._cancelled, self._synchronise = on_step, cancelled, synchronise
        self._reported_at = 0.0
        self._handing_over_seconds = 0.0
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

    def clock(self) -> float:
        """Seconds on a clock that stops while something is handed over, since that is not device time."""
        return time.perf_counter() - self._handing_over_seconds

    @contextlib.contextmanager
    def handing_over(self) -> Iterator[None]:
        """Stop the clock while the host makes records, or tells others of them or of progress."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._handing_over_seconds += time.perf_counter() - began

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
            self._synchronise()
            self.first_token_at = self.clock()
        if self._cancelled():
            raise Cancelled
        if self.step_seconds is not None:
            # No need to wait for the device: `generate` reads from it at every step, to see which rows have ended,
            # so that the time between two calls is that of a step.
            now = self.clock()
            if self.steps > 1:
                self.step_seconds.append(round(now - self._step_at, 6))
            self._step_at = now
        self._report(input_ids)
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
        if self._cancelled():
            raise Cancelled
        self._synchronise()
        self.steps = 1
        self._step_at = self.first_token_at = self.clock()
        return self._go_on

    def _report(self, input_ids: torch.Tensor) -> None:
        now = time.perf_counter()
        if now - self._reported_at < PROGRESS_SECONDS:
            return
        self._reported_at = now
        progress = Progress(self.steps, self._real_tokens(input_ids))  # waits for the device
        with self.handing_over():
            self._on_step(progress)

    def _real_tokens(self, input_ids: torch.Tensor) -> int:
        new = input_ids[:, self.prompt_width :]  # [rows, steps]
        ended = torch.isin(new, self._eos).int().cumsum(dim=1)  # [rows, steps], end-of-sequence tokens up to here
        # A token is real while none has ended before it: it is 0 up to the end, and 1 at the end itself.
        before = ended - torch.isin(new, self._eos).int()
        real = before == 0
        at = self.marks.set_at[:, None]  # [rows, 1]
        real &= (at == 0) | (torch.arange(new.shape[1], device=new.device) < at)
        return int(real.sum().item())


@dataclass
class Figures:
    """What the parts of a batch took: seconds, slots of padded prompts, steps, rows summed over steps, slots read."""

    prefill: float = 0.0
    decode: float = 0.0
    prompt_slots: int = 0
    steps: int = 0
    row_steps: int = 0
    read: int = 0
    step_seconds: list[float] | None = None

    def add(self, watch: StepWatch, began: float, prompt_slots: int, row_steps: int, read: int) -> None:
        """Add a part that is over; `began` is when its prefill did."""
        self.prefill += watch.first_token_at - began
        self.decode += watch.clock() - watch.first_token_at
        self.prompt_slots, self.steps = self.prompt_slots + prompt_slots, self.steps + watch.steps
        self.row_steps, self.read = self.row_steps + row_steps, self.read + read
        if watch.step_seconds is not None:
            self.step_seconds = [*(self.step_seconds or []), *watch.step_seconds]
