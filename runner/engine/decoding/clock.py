"""The time of a part of a batch: its prefill, its steps, and what is not the device's time; and its reports.

Clocks are read only after the device is synchronised. Knows no models and no rows.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rankdeck.runner.engine.base import OnStep
from rankdeck.runner.engine.rows import PROGRESS_SECONDS, Cancelled, Progress


class BatchClock:
    """Counts steps and keeps their time. `measure` keeps that of every step.

    `on_step` gets progress a few times a second, `cancelled` is asked at every step, `synchronise` waits for the device
    before the clock is read.
    """

    def __init__(
        self, *, on_step: OnStep, cancelled: Callable[[], bool], synchronise: Callable[[], None], measure: bool
    ) -> None:
        self.steps = 0
        self.first_token_at = 0.0
        self.step_seconds: list[float] | None = [] if measure else None
        self._step_at = 0.0
        self._on_step, self._cancelled, self.synchronise = on_step, cancelled, synchronise
        self._reported_at = 0.0
        self._handing_over_seconds = 0.0

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

    def first_token(self) -> None:
        """Prompts are prefilled, and every row has its first token: step 1 is over once the device is there."""
        self.synchronise()
        self._step_at = self.first_token_at = self.clock()

    def stepped(self) -> None:
        """Note the time of a step that is over, the second or a later one; the device need not be waited for."""
        if self.step_seconds is not None:
            now = self.clock()
            self.step_seconds.append(round(now - self._step_at, 6))
            self._step_at = now

    def go_on(self) -> None:
        """Raise Cancelled if the batch is not to go on."""
        if self._cancelled():
            raise Cancelled

    def report(self, output_tokens: Callable[[], int]) -> None:
        """Tell of progress if it is time to; counting tokens may wait for the device."""
        now = time.perf_counter()
        if now - self._reported_at < PROGRESS_SECONDS:
            return
        self._reported_at = now
        progress = Progress(self.steps, output_tokens())
        with self.handing_over():
            self._on_step(progress)


@dataclass
class Figures:
    """What the parts of a batch took: seconds, slots of padded prompts, steps, rows summed over steps, slots read.

    `shared` counts prompt tokens that needed no slot, since another row's are used.
    """

    prefill: float = 0.0
    decode: float = 0.0
    prompt_slots: int = 0
    steps: int = 0
    row_steps: int = 0
    read: int = 0
    shared: int = 0
    step_seconds: list[float] | None = None

    @classmethod
    def of(
        cls, clock: BatchClock, began: float, prompt_slots: int, row_steps: int, read: int, shared: int = 0
    ) -> "Figures":
        """Those of a part that is over; `began` is when its prefill did."""
        return cls(
            prefill=clock.first_token_at - began,
            decode=clock.clock() - clock.first_token_at,
            prompt_slots=prompt_slots,
            steps=clock.steps,
            row_steps=row_steps,
            read=read,
            shared=shared,
            step_seconds=clock.step_seconds,
        )

    def add(self, part: "Figures") -> None:
        """Add those of another part."""
        self.prefill, self.decode = self.prefill + part.prefill, self.decode + part.decode
        self.prompt_slots, self.steps = self.prompt_slots + part.prompt_slots, self.steps + part.steps
        self.row_steps, self.read = self.row_steps + part.row_steps, self.read + part.read
        self.shared += part.shared
        if part.step_seconds is not None:
            self.step_seconds = [*(self.step_seconds or []), *part.step_seconds]
