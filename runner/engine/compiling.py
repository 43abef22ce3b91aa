"""`--compile`: transformers' compiled decode steps over a static cache, and whether they pay.

Knows which batches are compiled, and does the sums: the first batch runs uncompiled, for comparison; the first compiled
batch of a shape waits for the compiler; with the next one of that shape the gain is known, and reported once.
"""

from collections.abc import Callable
from typing import Any

PAD_TO_MULTIPLE = 64
"""Prompts are padded to a multiple of this: every width is compiled separately."""

BEFORE = (
    "--compile: the first batch runs as it is, for comparison; then the first of each shape (rows x width) waits for "
    "the compiler, a minute or more each. Rows that have ended stay in their batch, for its shape is fixed"
)

ON_A_CPU = (
    "on a CPU it leaves the weights as torch lays them out, where the steps of a run without it, whose weights are "
    "packed, took less than the compiled ones"
)
"""Measured on 2 cores (135 M parameters, float32): 82 ms a compiled step of 6 rows, 52 ms a packed one of 4."""


class Compiling:
    """The compiled batches of one rank. `say` gets a line for people."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._plain: float | None = None
        self._first: dict[tuple[int, int], float] = {}
        self._said = False

    @property
    def begun(self) -> bool:
        """Whether the uncompiled batch has been timed, so that batches are compiled now."""
        return self._plain is not None

    def prepare(self, generation: Any) -> None:
        """Have `generate` compile its steps with this generation config, once compiling has begun."""
        if not self.begun:
            return
        from transformers.generation.configuration_utils import CompileConfig

        generation.cache_implementation = "static"
        generation.compile_config = CompileConfig()
        # By default only GPUs are compiled for; whether a CPU gains is measured here.
        generation.compile_config._compile_all_devices = True

    def learn(self, rows: int, width: int, steps: int, decode_seconds: float) -> None:
        """A batch of `rows` prompts padded to `width` took `decode_seconds` for the steps after the first."""
        if steps < 2:
            return
        if self._plain is None:
            self._plain = decode_seconds / (steps - 1) / rows
            return
        shape = rows, width
        first = self._first.setdefault(shape, decode_seconds)
        if first == decode_seconds or self._said:
            return
        self._said = True
        step, before = decode_seconds / (steps - 1), self._plain * rows
        cost = max(0.0, first - decode_seconds)
        said = f"compiling batches of {rows} x {width} took {cost:.1f} s; a step takes {step * 1000:.1f} ms"
        # The uncompiled batch may have had another number of rows: scaling by rows is a guess.
        gain = (before - step) * (steps - 1)
        if gain <= 0:
            self._say(f"{said}, no less than without ({before * 1000:.1f} ms): leave --compile out")
        else:
            self._say(f"{said} instead of {before * 1000:.1f} ms: it pays from {cost / gain + 1:,.0f} batches on")
