"""`--compile`: transformers' compiled decode steps over a static cache, and whether they pay.

Knows which batches are compiled, keeps their cache, and does the sums: the first batch runs uncompiled, for comparison;
the first compiled batch of a shape waits for the compiler; with the next one of that shape the gain is known, and
reported once. A shape is a number of rows and a length of their cache: a step does not see how wide the prompts were.
Knows, too, which models transformers compiles, and which errors speak against it.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rankdeck.runner.engine import errors, memory
from rankdeck.runner.engine.private_names import CACHE
from rankdeck.runner.engine.rows import Cancelled

if TYPE_CHECKING:
    import torch

PAD_TO_MULTIPLE = 64
"""Prompts are padded to a multiple of this, so that few batches need a longer cache than those before."""

BEFORE = (
    "--compile: the first batch runs as it is, for comparison; then the first of each shape (rows x cache length) waits"
    " for the compiler, a minute or more each. Rows that have ended stay in their batch, for its shape is fixed"
)

ON_A_CPU = (
    "on a CPU it leaves the weights as torch lays them out, where the steps of a run without it, whose weights are "
    "packed, took less than the compiled ones"
)
"""Measured on 2 cores (135 M parameters, float32): 82 ms a compiled step of 6 rows, 52 ms a packed one of 4."""

NO_EFFECT = "--compile has no effect"
GIVEN_UP = "--compile is off from this batch on, because a compiled batch failed"
NO_WIDTHS = "it pads prompts to few lengths, so that few are compiled"


class CompiledStepsError(RuntimeError):
    """A batch failed as it was compiled, in a way that it need not without; the text is the error in one line."""


@contextlib.contextmanager
def blamed(devices: "Sequence[torch.device]") -> Iterator[None]:
    """Turn an error of a compiled batch into a CompiledStepsError; what says nothing against compiling passes."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Cancelled) or errors.is_out_of_memory(error) or memory.is_lost(error, devices):
            raise
        raise CompiledStepsError(errors.in_one_line(error)) from error


def announced(kind: str) -> str:
    """What is said of compiling before the first batch, on this kind of device."""
    return f"{BEFORE}; {ON_A_CPU}" if kind == "cpu" else BEFORE


def why_not(model: Any) -> str | None:
    """Why transformers compiles no steps of this model, though it would keep its batches' shape; None if it does."""
    # Its class says so (GPT-Neo), or it keeps no keys and values, which could be static (Mamba).
    caches = {CACHE, "past_key_values"} & set(inspect.signature(type(model).forward).parameters)
    if not (getattr(model, "_can_compile_fullgraph", False) and caches):
        kind = model.config.model_type or type(model).__name__
        return f"transformers does not compile models of this kind ({kind})"
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and not quantizer.is_compileable:
        return f"transformers does not compile models that are quantised by {type(quantizer).__name__}"
    return None


@dataclass(frozen=True)
class _Kept:
    """A static cache for `rows` rows of at most `length` tokens, new ones included."""

    rows: int
    length: int
    cache: Any


class Compiling:
    """The compiled batches of one rank, and the cache that they share. `say` gets a line for people."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._plain: float | None = None
        self._first: dict[tuple[int, int], float] = {}
        self._said = False
        self._kept: _Kept | None = None
        self._compiled = False

    @property
    def begun(self) -> bool:
        """Whether the uncompiled batch has been timed, so that batches are compiled now."""
        return self._plain is not None

    def prepare(self, generation: Any, rows: int, length: int) -> Any:
        """Have `generate` compile its steps with this generation config, once compiling has begun.

        Returns the cache to pass it: the last batch's, emptied, where that has as many rows and at least `length`
        tokens. Steps that were compiled, or captured as a CUDA graph, are tied to the memory of their cache. None
        where `generate` has to make one, which `keep` then keeps. Only one is ever kept: as much as a batch needs. Call
        this in inference mode, as the caches were made.
        """
        if not self.begun:
            return None
        from transformers.generation.configuration_utils import CompileConfig

        self._compiled = True
        generation.compile_config = CompileConfig()
        # By default only GPUs are compiled for; whether a CPU gains is measured here.
        generation.compile_config._compile_all_devices = True
        kept = self._kept
        if kept is None or kept.rows != rows or kept.length < length:
            self._kept = None  # its memory is free before the next one's is taken
            generation.cache_implementation = "static"
            return None
        kept.cache.reset()
        return kept.cache

    def keep(self, rows: int, length: int, cache: Any) -> None:
        """Keep the cache that a compiled batch was generated with, for the next one of its shape."""
        from transformers import StaticCache

        # Some models make a cache of their own kind whatever they are asked for.
        if self.begun and self._kept is None and isinstance(cache, StaticCache):
            # transformers never makes one shorter than any before. The last token of an answer is not kept in it.
            self._kept = _Kept(rows, max(length, cache.get_max_length() + 1), cache)

    def forget(self) -> None:
        """Free the cache, and the graphs of all shapes with their memory: each is compiled anew when it comes again."""
        self._kept = None
        if self._compiled:
            import torch

            self._compiled = False
            self._first.clear()
            torch.compiler.reset()

    def learn(self, rows: int, length: int, steps: int, decode_seconds: float) -> None:
        """A batch of `rows` prompts of up to `length` tokens took `decode_seconds` for the steps after the first."""
        if steps < 2:
            return
        if self._plain is None:
            self._plain = decode_seconds / (steps - 1) / rows
            return
        shape = rows, length if self._kept is None else self._kept.length
        first = self._first.setdefault(shape, decode_seconds)
        if first == decode_seconds or self._said:
            return
        self._said = True
        step, before = decode_seconds / (steps - 1), self._plain * rows
        cost = max(0.0, first - decode_seconds)
        said = f"compiling batches of {rows} x {shape[1]} took {cost:.1f} s; a step takes {step * 1000:.1f} ms"
        # The uncompiled batch may have had another number of rows: scaling by rows is a guess.
        gain = (before - step) * (steps - 1)
        if gain <= 0:
            self._say(f"{said}, no less than without ({before * 1000:.1f} ms): leave --compile out")
        else:
            self._say(f"{said} instead of {before * 1000:.1f} ms: it pays from {cost / gain + 1:,.0f} batches on")
