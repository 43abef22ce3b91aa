"""The continuous engine: transformers' own continuous batching. Rows come and go at every step; nothing is padded.

Knows transformers' manager (paged attention, on GPUs with CUDA graphs and asynchronous steps). Does not know which
prompts come next: `runner.rank.continuous_rank` submits them as rows fall free.
`warm_up` raises where model, settings or device are not supported, and the static engine takes over.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers

from rankdeck.runner.engine import errors, memory, private_names
from rankdeck.runner.engine.generation import logit_rules, long_texts, settings
from rankdeck.runner.engine.generation.marks import DrawableLogits, words
from rankdeck.runner.engine.memory import free_memory
from rankdeck.runner.engine.paged.attempts import Attempt, attempts
from rankdeck.runner.engine.paged.config import batching_config, can_share_blocks, paged_attention
from rankdeck.runner.engine.rows import Ended, Row, trim
from rankdeck.runner.engine.rows_engine import TAKE_SECONDS, RowsEngine
from rankdeck.runner.engine.trials import told
from rankdeck.runner.engine.trials.likeness import Likeness
from rankdeck.runner.engine.trials.told import Alone
from rankdeck.runner.protocol.config import RunConfig

FATAL_SECONDS = 2.0
STOP_SECONDS = 5.0

NOT_AGAIN = (
    "a seed does not give the same answers again with the continuous engine: what is drawn depends on when rows come "
    "and go; --engine static draws the same"
)

NO_ROOM = "No requests can be scheduled"
"""What transformers says of a row that is too long for its whole cache."""


class Unsupported(Exception):
    """Continuous batching does not support the model or the settings; the text says why."""


class UnusableLogitsError(RuntimeError):
    """Logits of a row are no numbers, and may have spread to the rows beside it, by way of the cache they share."""


class ContinuousEngine(RowsEngine):
    """Generates all submitted rows at once; each is reported as it ends.

    It takes its room for a run of `prompts` prompts; None: unknown.
    """

    name = "continuous"

    def __init__(
        self, model: Any, tokenizer: Any, config: RunConfig, device: torch.device, prompts: int | None = None
    ) -> None:
        super().__init__(model, tokenizer, config, device)
        self._prompts = prompts
        self._attempt = Attempt()
        self._manager: Any = None
        self._keys: dict[str, Any] = {}
        self._started = False
        self._prepared = logit_rules.prepared(
            model, self.generation, torch.tensor([[self.generation.pad_token_id]], device=device)
        )
        self._drawable = DrawableLogits(device)
        self._problem: UnusableLogitsError | None = None
        if config.do_sample and config.seed is not None:
            self.add_notes([NOT_AGAIN])
        self._attention = getattr(model.config, "_attn_implementation", None)
        self._threads: int | None = None
        if device.type == "cpu":
            model.register_forward_pre_hook(self._before_step)

    def use_threads(self, threads: int) -> None:
        """Have the manager's thread use this many: torch counts threads separately for each Python thread."""
        self._threads = threads

    def _before_step(self, *_: Any) -> None:
        if self._threads is not None and self._threads != torch.get_num_threads():
            torch.set_num_threads(self._threads)

    def warm_up(self) -> None:
        """Have the manager allocate its memory and record its graphs, then generate a few tokens.

        Raises:
            Unsupported: this model or these settings do not work with it.
        """
        if len(self.devices) > 1:
            raise Unsupported("the model is spread over several GPUs")
        if said := private_names.why_unusable(private_names.CONTINUOUS, "the continuous engine"):
            raise Unsupported(said)
        if said := self._why_not():
            raise Unsupported(said)
        alone, likeness = self._alone()
        each, note = attempts(self._config, self.device, self.model, self._prompts)
        self._notes += [] if note is None else [note]
        for self._attempt in each:
            if (said := self._try(alone, likeness)) is None:
                self._synchronise()
                return
            if self._attempt is not each[-1]:
                self._notes.append(f"the continuous engine does without {self._attempt}: {said.splitlines()[0]}")
        raise Unsupported(said)

    def _alone(self) -> tuple[list[Alone], Likeness]:
        try:
            return told.alone(self.model, self.tokenizer, self.generation.pad_token_id, self.device)
        except Exception as error:
            if memory.is_lost(error, self.devices):
                raise
            raise Unsupported(f"{type(error).__name__}: {error}") from error

    def _try(self, alone: list[Alone], likeness: Likeness) -> str | None:
        """Open a manager with the present attempt; returns what is wrong with it, None if it is right and open."""
        try:
            self._open()
            self._manager.warmup()
            if self._same_as_alone(alone, likeness):
                return None
            said = "a few tokens had other probabilities than in each prompt alone"
        except Exception as error:
            if memory.is_lost(error, self.devices):
                self.close()
                raise
            said = f"{type(error).__name__}: {error}"
            errors.forget_frames(error)  # they hold the cache, and the next attempt needs its room
        self.close()
        return said

    def _why_not(self) -> str | None:
        """Why the settings, or the model's kind, do not go with it; None if they do."""
        for processor in self._prepared.processors:
            if not getattr(processor, "supports_continuous_batching", False):
                return f"its generation config wants {type(processor).__name__}, which it does not support"
        if self.generation.stop_strings or self._prepared.criteria:
            return "its generation config has stop_strings, which it does not support"
        if getattr(self.model, "_is_stateful", False):
            return "this model keeps a state, which paged attention cannot hold"
        if long_texts.padded_up_to(self.model.config, self.context_tokens) is not None:
            return "this model computes a long text in another way, and all rows in flight with it"
        return None

    def _same_as_alone(self, alone: list[Alone], likeness: Likeness) -> bool:
        """Whether rows at once get the tokens, and these the probabilities, that each row gets alone."""
        for place, row in enumerate(alone):
            self.submit([Row(place, row.prompt)], max_new_tokens=len(row.logits))
        found: dict[int, Any] = {}
        while self.in_flight:
            found.update(self._outputs(TAKE_SECONDS))
        same = [
            row.agrees(output.generated_tokens, output.logprobs, self._prepared.processors, likeness)
            for place, row in enumerate(alone)
            if (output := found[place]).error is None
        ]
        return likeness.enough(same)

    @property
    def in_flight(self) -> int:
        """Rows that were submitted and have not ended."""
        return len(self._keys)

    def submit(self, rows: Sequence[Row], *, max_new_tokens: int | None = None) -> None:
        """Start rows; `ended` will return each under its key.

        Rows that are started together are begun in an order that lets them share what their prompts have in common.
        """
        if self._manager is None:
            self._open()
        if not self._started:
            self._manager.start()
            self._started = True
        elif not self._manager.is_running():
            # Starting it again would lose the reason why it ended, and fail the rows in flight one by one.
            self._raise_if_fatal()
        names = self._manager.add_requests(
            [list(row.tokens) for row in rows],
            max_new_tokens=self.generation.max_new_tokens if max_new_tokens is None else max_new_tokens,
            record_timestamps=True,
        )
        self._keys.update(zip(names, (row.key for row in rows), strict=True))

    def ended(self, seconds: float) -> list[Ended]:
        """The rows that ended since the last call; waits up to `seconds` for one.

        Raises:
            Exception: whatever ended the generation of all rows; none is in flight any more.
        """
        if self._problem is not None:
            problem, self._problem = self._problem, None
            self.close()
            raise problem
        found: list[Ended] = []
        for key, output in self._outputs(seconds):
            if output.error is not None:
                found.append((key, str(output.error), []))
            elif (step := self._drawable.first_unusable(output.logprobs)) is not None:
                self._problem = UnusableLogitsError(words("NaN", step, self.model.dtype))
                self._keys[output.request_id] = key  # not over: the next call raises
            else:
                found.append((key, trim(output.generated_tokens, self.eos_tokens), output.timestamps or []))
        return found

    def _outputs(self, seconds: float) -> list[tuple[Any, Any]]:
        """What the manager has put out since the last call, by the keys of the rows; see `ended`."""
        found: list[tuple[Any, Any]] = []
        output = self._manager.get_result(timeout=seconds)
        while output is not None:
            key = self._keys.pop(output.request_id, None)
            if output.error is not None:
                if found and not self._manager.is_running():
                    break  # return the rows that ended well; the next call raises
                self._raise_if_fatal()
            if key is not None:
                found.append((key, output))
            output = self._manager.get_result(timeout=0)
        if not found and self._keys and not self._manager.is_running():
            self._raise_if_fatal()
        return found

    def _raise_if_fatal(self) -> None:
        """Raise if a step raised, which fails all rows; after the failure of a single row the manager runs on."""
        deadline = time.monotonic() + FATAL_SECONDS
        status = self._manager.background_thread_status
        while status.fatal_error is None and time.monotonic() < deadline and status.local_status != status.DONT_STOP:
            time.sleep(0.01)  # the error is recorded after the rows have failed
        error = status.fatal_error
        if error is None and self._manager.is_running():
            return
        self.close()
        if error is not None and NO_ROOM in str(error):
            raise RuntimeError(
                "a prompt and its answer do not fit in the cache of the continuous engine; --engine static has no "
                "such limit"
            ) from error
        raise error or RuntimeError("continuous batching ended by itself")

    @property
    def steps(self) -> int:
        """Steps since the manager was created."""
        return getattr(self._manager, "current_batch", 0) or 0

    def tokens_in_flight(self) -> int:
        """Output tokens so far of the rows in flight."""
        try:
            states = list(self._manager.batch_processor.scheduler.active_requests.values())
            return sum(state.generated_len() for state in states)
        except (AttributeError, RuntimeError):  # not started, or changing while it is read: the next call will tell
            return 0

    def cache_used(self) -> float | None:
        """Share of the key and value cache in use, 0 to 1; None where this version of transformers does not say."""
        try:
            cache = self._manager.batch_processor.cache
            if hasattr(cache, "compute_free_capacity"):
                return round(1 - float(cache.compute_free_capacity()), 4)
            return round(1 - float(cache.get_num_free_blocks() / cache.num_blocks), 4)
        except (AttributeError, RuntimeError, ZeroDivisionError):
            return None

    def close(self) -> None:
        """Stop at once; rows in flight are lost. The model has its own attention again."""
        manager, self._manager = self._manager, None
        self._keys.clear()
        self._drawable.seen.zero_()
        self._started = False
        if manager is not None:
            self._end(manager)
        self._restore_attention()

    def _restore_attention(self) -> None:
        # The manager switches it, and restores it only if it was stopped: not if its thread never ran, or died.
        if self._attention is not None and self.model.config._attn_implementation != self._attention:
            self.model.set_attn_implementation(self._attention)

    def _end(self, manager: Any) -> None:
        if manager.is_running():
            manager.stop(block=True, timeout=STOP_SECONDS, hard_stop=True)
        if (error := manager.background_thread_status.fatal_error) is not None:
            error.__traceback__ = None  # it holds the loop, which holds the cache
        manager.batch_processor = None
        del manager
        free_memory(self.device)

    def forget_shared(self) -> None:
        """Drop the blocks of rows that have ended."""
        if self._started and self._manager.is_running() and can_share_blocks():
            with self._manager.pause():  # its thread may be putting the last row's blocks away
                self._manager.batch_processor.cache.evict_cached_blocks()

    def longest_in_flight(self) -> int:
        """See `RowsEngine`."""
        try:
            states = list(self._manager.batch_processor.scheduler.active_requests.values())
            return max((state.generated_len() for state in states), default=0)
        except (AttributeError, RuntimeError):
            return 0

    def _open(self) -> None:
        generation = settings.bare(self.generation)
        generation.eos_token_id = sorted(self.eos_tokens) or -1  # -1 ends nothing
        if wanted := self._attempt.attention or paged_attention(self.device, self._attention):
            self.model.set_attn_implementation(wanted)
        with self._with_processors():
            self._manager = self.model.init_continuous_batching(
                generation_config=generation,
                continuous_batching_config=batching_config(
                    self._config,
                    self.device,
                    self.context_tokens,
                    self.kv_bytes_per_token(),
                    prompts=self._prompts,
                    compiled=self._attempt.compiled,
                ),
            )

    @contextlib.contextmanager
    def _with_processors(self) -> Iterator[None]:
        """Have the manager take the processors that `generate` prepares: it would not fill in the defaults itself."""
        last = [self._drawable] if self.generation.do_sample else []
        processors = transformers.LogitsProcessorList([*self._prepared.processors, *last])
        self.model._get_logits_processor = lambda *_, **__: processors
        try:
            yield
        finally:
            del self.model._get_logits_processor
