"""What all engines share: a loaded model with tokenizer and generation config, and the records of its answers.

Knows transformers and the device; knows no ranks, sockets or queues, and leaves generating to `runner.engine.static`,
`runner.engine.continuous` and `runner.engine.vllm`. Clocks are read only after the device is synchronised. A prompt
that cannot be answered (too long, no chat template) gets an error record and does not affect the others.
"""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from rankdeck.runner.engine import loading, memory
from rankdeck.runner.engine.experts import experts_of
from rankdeck.runner.engine.generation import settings, vocabulary
from rankdeck.runner.engine.generation.chat_content import ChatContent
from rankdeck.runner.engine.generation.layer_configs import layer_configs, value_of
from rankdeck.runner.engine.loading import dtype_text
from rankdeck.runner.engine.rows import Answer, Progress
from rankdeck.runner.engine.trials.findings import NOTHING_KEPT, Findings
from rankdeck.runner.engine.weights import stored_bytes
from rankdeck.runner.protocol import BatchResult, OutputRecord, Prompt, prompt_text
from rankdeck.runner.protocol.config import RunConfig


@dataclass(frozen=True)
class BatchOutput:
    """The records of a batch, one per prompt in the batch's order, and its figures."""

    records: list[OutputRecord]
    result: BatchResult


LONGEST_SETTING = 200
"""Characters that are shown of a setting of the generation config: a list of tokens may be a megabyte."""

OnStep = Callable[[Progress], None]
OnRecords = Callable[[list[OutputRecord]], None]


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is generated, and who hears of it; see `Engine.generate`."""

    on_step: OnStep
    cancelled: Callable[[], bool]
    on_records: OnRecords
    measure: bool
    max_new_tokens: int | None


class Engine(abc.ABC):
    """A model on its device. Subclasses implement `_generate` and `_closes_after`, and have a `name`."""

    name = ""

    context_is = "the model's context"
    """What `context_tokens` are the tokens of, in words."""

    broken = False
    """Whether it can generate nothing more, and another process has to take its place."""

    def __init__(self, model: Any, tokenizer: Any, config: RunConfig, device: torch.device) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self.devices = loading.devices_of(model, device)
        self.findings: Findings = NOTHING_KEPT
        """What is known of the model from earlier trials, for `warm_up`."""

        self._config = config
        note = loading.dtype_note_of(model, device)
        self._notes: list[str] = [note] if note else []

        self.generation, set_aside = settings.of_run(model, tokenizer, config)
        self._notes += set_aside
        self._embedding_rows = vocabulary.embedding_rows(model)
        vocabulary.settle(self.generation, tokenizer.pad_token_id, self._embedding_rows, vocabulary.logit_count(model))
        eos = self.generation.eos_token_id
        self.eos_tokens = frozenset([] if eos is None else eos if isinstance(eos, list) else [eos])
        self._experts = experts_of(model)
        self.context_tokens = vocabulary.context_tokens(model.config)

    def add_notes(self, lines: Sequence[str]) -> None:
        """Have these lines among those that `take_notes` returns first."""
        self._notes[:0] = lines

    def take_notes(self) -> list[str]:
        """Lines for people that have come up since the last call."""
        notes, self._notes[:] = list(self._notes), []
        return notes

    def describe(self) -> dict[str, Any]:
        """Figures of the loaded model, as fields of RankReady."""
        parameters = list(self.model.parameters())
        shown = self.generation.to_diff_dict()
        shown.pop("transformers_version", None)
        shown.pop("_from_model_config", None)
        return {
            "parameters": self.model.num_parameters(),
            "weight_read_bytes": self._weight_read_bytes(parameters),
            "experts": self._experts,
            "parameter_bytes": sum(stored_bytes(parameter) for parameter in parameters),
            "kv_bytes_per_token": self.kv_bytes_per_token(),
            "context_tokens": self.context_tokens,
            "dtype": dtype_text(self.model, self._config.quantization),
            "generation": {name: _shown(value) for name, value in shown.items()},
        }

    def kv_bytes_per_token(self) -> int | None:
        """Bytes of keys and values per token in all layers; None where the model's config does not say."""
        layers = layer_configs(self.model.config.get_text_config())
        widths = [_kv_width(layer) for layer in layers]
        if not widths or None in widths:
            return None
        return int(2 * sum(width for width in widths if width is not None) * self.model.dtype.itemsize)

    def _weight_read_bytes(self, parameters: list[Any]) -> int:
        """Bytes of parameters that a decode step reads, with all experts; of an input embedding it reads only rows."""
        embedding, output = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        # Not by the name `weight`: a packed layer would lay its weights out for the asking.
        tied = any(own is read for own in _parameters_of(output) for read in _parameters_of(embedding))
        unread = 0 if tied or embedding is None else stored_bytes(embedding.weight)
        return sum(stored_bytes(parameter) for parameter in parameters) - unread

    @abc.abstractmethod
    def warm_up(self) -> None:
        """Generate a little, to find out what the model can do, unless `findings` have it from earlier runs."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        on_step: OnStep = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
        on_records: OnRecords = lambda _: None,
        measure: bool = False,
        max_new_tokens: int | None = None,
    ) -> BatchOutput:
        """Answer `prompts`, with at most `max_new_tokens` each where given.

        `on_step` gets progress a few times a second, `on_records` every record once, as soon as its row has ended.
        `cancelled` is called at every step. `measure` keeps the time of each decode step.

        Raises:
            Cancelled: `cancelled()` was true; rows that had not ended are lost.
        """
        try:
            return self._generate(prompts, BatchOptions(on_step, cancelled, on_records, measure, max_new_tokens))
        except BaseException as error:
            if self._closes_after(error):
                self.close()
            raise

    @abc.abstractmethod
    def _generate(self, prompts: Sequence[Prompt], options: BatchOptions) -> BatchOutput:
        """See `generate`."""

    @abc.abstractmethod
    def _closes_after(self, error: BaseException) -> bool:
        """Whether nothing is to be kept after a batch that ended in this error."""

    def use_threads(self, threads: int) -> None:
        """Use this many threads from the next step on, on a CPU."""
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    @abc.abstractmethod
    def close(self) -> None:
        """Free what `generate` keeps between batches."""

    def leave(self) -> None:  # noqa: B027
        """End what the engine has started outside this process: it is to leave."""

    def tokenise(self, prompts: Sequence[Prompt]) -> tuple[dict[int, list[int]], dict[int, str]]:
        """Token ids by position in `prompts`, and for prompts that cannot be answered what is wrong with them."""
        tokens: dict[int, list[int]] = {}
        unfit: dict[int, str] = {}
        for position, prompt in enumerate(prompts):
            try:
                ids = self._tokenise(prompt)
            except Exception as error:  # a template is code that comes with the model: it may raise anything
                unfit[position] = f"prompt cannot be tokenised: {error}"
                continue
            if problem := self._unfit(ids):
                unfit[position] = problem
            else:
                tokens[position] = ids
        return tokens, unfit

    def _tokenise(self, prompt: Prompt) -> list[int]:
        if prompt.messages is None and not self._config.chat:
            ids: list[int] = self.tokenizer(prompt.text)["input_ids"]
            return ids
        messages = self._chat_content.fitted(prompt.messages or [{"role": "user", "content": prompt.text}])
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # The template has written the special tokens already.
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @cached_property
    def _chat_content(self) -> ChatContent:
        return ChatContent(self.tokenizer)

    def _unfit(self, ids: list[int]) -> str | None:
        if not ids:
            return "prompt has no tokens"
        if problem := vocabulary.unknown_token(ids, self._embedding_rows):
            return problem
        prompt_tokens = len(ids)
        wanted = prompt_tokens + self._config.new_tokens
        if self.context_tokens is not None and wanted > self.context_tokens:
            return (
                f"prompt of {prompt_tokens:,} tokens and {self._config.new_tokens:,} new tokens do not fit "
                f"{self.context_is} of {self.context_tokens:,}"
            )
        return None

    def answered(self, prompt: Prompt, prompt_tokens: int, answer: Answer) -> OutputRecord:
        """The record of an answered prompt, or of one whose answer came to nothing."""
        if answer.problem is not None:
            return self.refused(prompt, answer.problem)
        return OutputRecord(
            index=prompt.index,
            id=prompt.id,
            prompt=prompt_text(prompt),
            text=self.tokenizer.decode(answer.tokens, skip_special_tokens=True),
            prompt_tokens=prompt_tokens,
            output_tokens=len(answer.tokens),
            finish_reason=answer.finish_reason,
        )

    def refused(self, prompt: Prompt, error: str) -> OutputRecord:
        """The record of a prompt that cannot be answered."""
        return OutputRecord(
            index=prompt.index,
            id=prompt.id,
            prompt=prompt_text(prompt),
            text="",
            prompt_tokens=0,
            output_tokens=0,
            finish_reason="error",
            error=error,
        )

    def _synchronise(self) -> None:
        memory.synchronise(self.devices)

    def _reset_peak_memory(self) -> None:
        memory.reset_peaks(self.devices)

    def peak_memory(self) -> int | None:
        """Most bytes allocated on the devices since the last reset; None on a CPU."""
        return memory.peak_bytes(self.devices)

    def reserved_memory(self) -> int | None:
        """Most bytes reserved on the devices since the last reset, allocated or not; None on a CPU."""
        return memory.peak_reserved_bytes(self.devices)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_SETTING else f"{text[:LONGEST_SETTING]} …"


def _kv_width(layer: Any) -> int | None:
    """How many numbers a layer keeps of a token as its key, and again as its value; None where its config is silent."""
    heads = value_of(layer, "num_key_value_heads") or value_of(layer, "num_attention_heads")
    width = value_of(layer, "head_dim")
    if width is None and value_of(layer, "num_attention_heads"):
        width = layer.hidden_size // layer.num_attention_heads
    return int(heads * width) if heads and width else None


def _parameters_of(module: Any) -> list[Any]:
    return [] if module is None else list(module.parameters())
