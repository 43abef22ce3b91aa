"""vLLM behind a rank: `LLMEngine`, stepped one step at a time, in the rank's own process.

Knows its requests, how far each has come, and how to keep rows back with what they have. Which prompts come next is
`runner.rank.continuous_rank`'s business. Between two steps nothing happens, so a rank that is told to pause, to cancel
or to generate fewer rows does so within a step.
"""

import contextlib
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankdeck.runner.engine import loading, memory
from rankdeck.runner.engine.loading import Loaded
from rankdeck.runner.engine.rows import Ended, Row, trim
from rankdeck.runner.engine.rows_engine import RowsEngine
from rankdeck.runner.engine.vllm import names, opening, outline, sampling
from rankdeck.runner.protocol import RankPhaseName
from rankdeck.runner.protocol.config import RunConfig

WARM_UP_TOKENS = 4
KV_USE = "vllm:kv_cache_usage_perc"
"""The one of its metrics that says how full the cache is, 0 to 1."""


@dataclass
class _Request:
    """A row: what it was asked with, how many tokens it may have in all, and its tokens so far with their times."""

    row: Row
    most: int
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class VllmEngine(RowsEngine):
    """Generates rows by vLLM. `loaded` has the model without weights, which vLLM reads from `model_path`.

    `scratch` is a folder for its temporary files. `on_phase` is told of the phases of `warm_up`.
    """

    name = "vllm"
    stepwise = True
    padding_known = False  # with CUDA graphs a step computes as many rows as its graph was recorded for

    def __init__(
        self,
        loaded: Loaded,
        config: RunConfig,
        model_path: str,
        scratch: Path,
        on_phase: Callable[[RankPhaseName], object],
    ) -> None:
        super().__init__(loaded.model, loaded.tokenizer, config, loaded.device)
        self.add_notes(loaded.notes)
        self.devices = loading.devices_for(config, loaded.device)
        self._model_path, self._scratch, self._on_phase = model_path, scratch, on_phase
        self._llm: Any = None
        self._most_rows: int | None = None
        self._requests: OrderedDict[str, _Request] = OrderedDict()
        self._held: list[_Request] = []
        self._refused: dict[str, str] = {}
        self._limit: int | None = None
        self._names = self._steps = self._prompt_tokens = 0
        self._bound_told = False
        self._asked: dict[str, Any] = {}

    def warm_up(self) -> None:
        """Have vLLM load the model, take its memory and record its graphs, then generate a few tokens.

        Raises:
            ValueError: it has not all that the model's generation config asks for.
        """
        if (said := sampling.why_not(self.generation)) is not None:
            raise ValueError(said)
        self._asked = sampling.arguments(self.generation, self._config, self.eos_tokens)
        began = time.perf_counter()
        arguments = opening.arguments(
            self._config,
            self._model_path,
            self.device,
            self.model.dtype,
            context_tokens=self.context_tokens,
            kv_bytes_per_token=self.kv_bytes_per_token(),
        )
        self._llm = opening.opened(arguments, self._scratch, self._on_phase)
        found = self._llm.vllm_config
        self._most_rows = found.scheduler_config.max_num_seqs
        whole, self.context_tokens = self.context_tokens, found.model_config.max_model_len
        if whole is not None and self.context_tokens < whole:
            self.context_is = "vLLM's sequence limit"
            share = "; a larger --gpu-memory-share allows more" if self.device.type != "cpu" else ""
            self._notes.append(
                f"vLLM's cache limits sequences to {self.context_tokens:,} tokens, the model allows {whole:,}{share}"
            )
        self._notes.append(self._opened_note(found, arguments, time.perf_counter() - began))
        self.submit([Row("warm-up", [self.generation.pad_token_id] * 2)], max_new_tokens=WARM_UP_TOKENS)
        while self.in_flight:
            self.ended(0)
        self.forget_shared()
        self.shared_tokens = self._prompt_tokens = 0

    def _opened_note(self, found: Any, arguments: dict[str, Any], seconds: float) -> str:
        blocks, block = found.cache_config.num_gpu_blocks, found.cache_config.block_size
        room = f", {blocks * block:,} tokens of keys and values" if blocks and block else ""
        share = arguments.get("gpu_memory_utilization")
        of_gpu = f", {share:.0%} of the GPU's memory (--gpu-memory-share)" if share is not None else ""
        return f"vLLM {names.version()} loaded in {seconds:.0f} s: up to {self._most_rows:,} rows at once{room}{of_gpu}"

    def describe(self) -> dict[str, Any]:
        """Figures of the loaded model; bytes of quantised weights are those of their files."""
        found = super().describe() | {"most_rows": self._most_rows}
        if outline.is_quantised(self.model) and (stored := outline.bytes_of_files(self._model_path)) is not None:
            found |= {"parameter_bytes": stored, "weight_read_bytes": stored, "experts": None}
        return found

    # --- rows ---

    @property
    def in_flight(self) -> int:
        """Rows that are generated."""
        return len(self._requests)

    @property
    def held(self) -> int:
        """Rows that have begun and are kept back."""
        return len(self._held)

    @property
    def stands_still(self) -> bool:
        """Whether rows are in hand, and none may go on."""
        return self._limit == 0 and bool(self._requests or self._held)

    @property
    def steps(self) -> int:
        """Steps so far."""
        return self._steps

    def submit(self, rows: Sequence[Row], *, max_new_tokens: int | None = None) -> None:
        """Start rows; `ended` will return each under its key, those that vLLM refuses with what it says."""
        most = self.generation.max_new_tokens if max_new_tokens is None else max_new_tokens
        for row in rows:
            self._start(_Request(row, most))

    def _start(self, request: _Request) -> None:
        """Hand a row to vLLM, with the tokens that it has already as part of its prompt."""
        self._names += 1
        name = str(self._names)
        self._requests[name] = request
        row, begun = request.row, len(request.tokens)
        asked = dict(self._asked)
        if self._config.do_sample and self._config.seed is not None:
            asked["seed"] = sampling.seed_of(self._config.seed, row.prompt, begun)
        least = sampling.least_tokens(self.generation, len(row.tokens)) - begun
        parameters = names.part("SamplingParams")(
            **asked,
            max_tokens=request.most - begun,
            min_tokens=max(0, min(least, request.most - begun)),
            output_kind=names.part("RequestOutputKind").DELTA,
        )
        try:
            self._llm.add_request(name, names.part("tokens_input")([*row.tokens, *request.tokens]), parameters)
        except ValueError as error:
            self._refused[name] = str(error)

    def ended(self, seconds: float) -> list[Ended]:
        """Take a step, unless rows stand still: then wait for `seconds`; returns the rows that ended with it.

        Raises:
            Exception: the step failed. vLLM does not go on after that, so the rank cannot either (`broken`).
        """
        found: list[Ended] = [(self._requests.pop(name).row.key, said, []) for name, said in self._refused.items()]
        self._refused.clear()
        if self._limit == 0 or not self._requests:
            if not found and seconds:
                time.sleep(seconds)
            return found
        try:
            outputs = self._llm.step()
        except Exception:
            self.broken = True
            raise
        self._steps += 1
        now = time.perf_counter()
        for output in outputs:
            if (request := self._requests.get(output.request_id)) is not None:
                found += self._taken(output, request, now)
        return found

    def _taken(self, output: Any, request: _Request, now: float) -> list[Ended]:
        """Take the new tokens of a row; returns the row if it has ended with them."""
        answer = output.outputs[0]
        if not request.tokens:  # its first: how much of its prompt was there already is known now
            self.shared_tokens += output.num_cached_tokens or 0
            self._prompt_tokens += len(request.row.tokens)
        request.tokens.extend(answer.token_ids)
        request.times.extend([now] * len(answer.token_ids))
        if not output.finished:
            return []
        del self._requests[output.request_id]
        if answer.finish_reason not in ("stop", "length") or not request.tokens:
            return [(request.row.key, f"vLLM ended this prompt: {answer.finish_reason}", [])]
        return [(request.row.key, trim(request.tokens, self.eos_tokens), request.times)]

    def keep_to(self, rows: int | None) -> None:
        """Generate at most so many rows from the next step on: the youngest are kept back, with their tokens.

        With 0 all stand still where they are, in vLLM's cache. A row that was kept back goes on as soon as there is
        room, before any that has not begun.
        """
        self._limit = rows
        if rows == 0:
            return
        most = self._bounded(rows)
        surplus = len(self._requests) - most
        if surplus > 0:
            names_of = list(self._requests)[-surplus:]
            self._llm.abort_request(names_of)
            self._held[:0] = [self._requests.pop(name) for name in names_of]
        while self._held and len(self._requests) < most:
            self._start(self._held.pop(0))

    def _bounded(self, rows: int | None) -> int:
        if self._most_rows is None or (rows is not None and rows <= self._most_rows):
            return len(self._requests) + len(self._held) if rows is None else rows
        if rows is not None and not self._bound_told:
            self._bound_told = True
            self._notes.append(
                f"vLLM was started for at most {self._most_rows:,} rows at once; for more, start the run with "
                f"--batch-size {rows}"
            )
        return self._most_rows

    @property
    def most_rows(self) -> int | None:
        """The most rows at once that it was loaded for."""
        return self._most_rows

    def tokens_in_flight(self) -> int:
        """Output tokens so far of the rows that have not ended, with those that are kept back."""
        return sum(len(request.tokens) for request in (*self._requests.values(), *self._held))

    def longest_in_flight(self) -> int:
        """Output tokens so far of the row in flight that has most."""
        return max((len(request.tokens) for request in self._requests.values()), default=0)

    def cache_used(self) -> float | None:
        """Share of the key and value cache in use, 0 to 1, as vLLM's metrics have it."""
        used = next((metric.value for metric in self._llm.get_metrics() if metric.name == KV_USE), None)
        return None if used is None else round(min(1.0, max(0.0, used)), 4)

    def prefix_hits(self) -> float | None:
        """Share of the prompt tokens so far that vLLM found in its cache; None before the first."""
        return round(self.shared_tokens / self._prompt_tokens, 4) if self._prompt_tokens else None

    def forget_shared(self) -> None:
        """Have vLLM forget the prompts of rows that have ended."""
        self._llm.reset_prefix_cache()

    def use_threads(self, threads: int) -> None:
        """Nothing: on a CPU vLLM's products are made for a number of threads when a batch of their size first comes,
        and keep it."""

    def close(self) -> None:
        """Drop all rows. The model stays loaded, for the next."""
        if self._requests and not self.broken:
            self._llm.abort_request(list(self._requests))
        self._requests.clear()
        self._held.clear()
        self._refused.clear()
        self._limit = None

    def leave(self) -> None:
        """End vLLM and the processes that it has started."""
        with contextlib.suppress(Exception):  # this process ends in any case, and takes them along
            self._llm.engine_core.shutdown()
        shutil.rmtree(self._scratch, ignore_errors=True)

    # --- memory ---

    def _synchronise(self) -> None:
        pass  # a step ends when its tokens are on the host

    def peak_memory(self) -> int | None:
        """Most bytes allocated since the last reset; None on a CPU, and where other processes have the model."""
        return memory.peak_bytes(self.devices) if len(self.devices) == 1 else None

    def reserved_memory(self) -> int | None:
        """Most bytes reserved since the last reset; None as for `peak_memory`."""
        return memory.peak_reserved_bytes(self.devices) if len(self.devices) == 1 else None

    def _reset_peak_memory(self) -> None:
        if len(self.devices) == 1:
            memory.reset_peaks(self.devices)
