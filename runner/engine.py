"""The static engine: load a model, generate one left-padded batch, account for every token.

Knows transformers and the device; knows nothing of ranks, sockets or queues. An engine is made by
`load` and has one verb, `generate(batch, on_step)`. Clocks are read only after the device is
synchronised. A prompt that cannot be done (too long, no chat template) gets an error record and
costs its batch nothing.
"""

import copy
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from runner.config import RunConfig
from runner.protocol import BatchResult, FinishReason, OutputRecord, Prompt, prompt_text

PAD_TO_MULTIPLE = 8
PROGRESS_SECONDS = 0.2
"""At most five progress reports a second: counting live tokens reads from the device."""


class Cancelled(Exception):
    """The batch was abandoned on request, within a decode step."""


@dataclass(frozen=True)
class Progress:
    """Inside a batch: new tokens per row so far, and real output tokens of all rows so far."""

    step: int
    output_tokens: int


@dataclass(frozen=True)
class BatchOutput:
    """The records of a batch, one per prompt in the batch's order, and its accounting."""

    records: list[OutputRecord]
    result: BatchResult


@dataclass(frozen=True)
class Answer:
    """One row's new tokens, up to and including the end-of-sequence token."""

    tokens: list[int]
    finish_reason: FinishReason


def trim(tokens: list[int], eos_tokens: frozenset[int]) -> Answer:
    """Cut a row's new tokens after its first end-of-sequence token; what follows is padding."""
    for position, token in enumerate(tokens):
        if token in eos_tokens:
            return Answer(tokens[: position + 1], "stop")
    return Answer(tokens, "length")


class _StepWatch(transformers.StoppingCriteria):
    """Stops nothing by itself: counts steps, reports progress now and then, and watches for cancellation."""

    def __init__(
        self,
        rows: int,
        prompt_width: int,
        eos_tokens: frozenset[int],
        device: torch.device,
        on_step: Callable[[Progress], None],
        cancelled: Callable[[], bool],
        synchronise: Callable[[], None],
        *,
        measure: bool,
    ) -> None:
        self.steps = 0
        self.step_seconds: list[float] | None = [] if measure else None
        self._step_at = 0.0
        self.first_token_at = 0.0
        self._go_on = torch.zeros(rows, dtype=torch.bool, device=device)  # [rows]
        self._eos = torch.tensor(sorted(eos_tokens), dtype=torch.long, device=device)  # [end-of-sequence tokens]
        self._prompt_width = prompt_width
        self._on_step, self._cancelled, self._synchronise = on_step, cancelled, synchronise
        self._reported_at = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.steps += 1
        if self.steps == 1:
            self._synchronise()
            self.first_token_at = time.perf_counter()
        if self._cancelled():
            raise Cancelled
        now = time.perf_counter()
        if self.step_seconds is not None:
            # No device is waited for here: `generate` itself reads from the device at every step, to see
            # which rows have ended, so that the time between two calls is a step's.
            if self.steps > 1:
                self.step_seconds.append(round(now - self._step_at, 6))
            self._step_at = now
        if now - self._reported_at >= PROGRESS_SECONDS:
            self._reported_at = now
            self._on_step(Progress(self.steps, self._real_tokens(input_ids)))
        return self._go_on

    def _real_tokens(self, input_ids: torch.Tensor) -> int:
        new = input_ids[:, self._prompt_width :]  # [rows, steps]
        ended = torch.isin(new, self._eos).int().cumsum(dim=1)  # [rows, steps], end-of-sequence tokens up to here
        # A token is real while none has ended before it: it is 0 up to the end, and 1 at the end itself.
        before = ended - torch.isin(new, self._eos).int()
        return int((before == 0).sum().item())


class StaticEngine:
    """Left padding to a multiple of 8, one `generate` call per batch, every row waits for the longest."""

    name = "static"

    def __init__(self, model: Any, tokenizer: Any, config: RunConfig, device: torch.device) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self._config = config
        self.generation = _generation_config(model, tokenizer, config)
        eos = self.generation.eos_token_id
        self.eos_tokens = frozenset([] if eos is None else eos if isinstance(eos, list) else [eos])
        if self.generation.pad_token_id is None:
            self.generation.pad_token_id = tokenizer.pad_token_id
        # `generate` fills what is None here from the model's own config: with that one in place, an
        # end-of-sequence token that is to be ignored would come back.
        model.generation_config = copy.deepcopy(self.generation)
        text_config = model.config.get_text_config()
        self.context_tokens: int | None = getattr(text_config, "max_position_embeddings", None)

    # --- what it is, for the screen ---

    def describe(self) -> dict[str, Any]:
        """Figures of the loaded model: bytes of parameters, and of key and value cache per token."""
        parameters = list(self.model.parameters())
        text = self.model.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None)
        width = getattr(text, "head_dim", None)
        if width is None and getattr(text, "num_attention_heads", None):
            width = text.hidden_size // text.num_attention_heads
        layers = getattr(text, "num_hidden_layers", None)
        kv_bytes = None
        if heads and width and layers:
            kv_bytes = 2 * layers * heads * width * self.model.dtype.itemsize
        shown = self.generation.to_diff_dict()
        shown.pop("transformers_version", None)
        shown.pop("_from_model_config", None)
        return {
            "parameters": sum(parameter.numel() for parameter in parameters),
            "weight_read_bytes": self._weight_read_bytes(parameters),
            "parameter_bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
            "kv_bytes_per_token": kv_bytes,
            "context_tokens": self.context_tokens,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "generation": {name: str(value) for name, value in shown.items()},
        }

    def _weight_read_bytes(self, parameters: list[Any]) -> int:
        """Bytes of parameters that a decode step reads: of an input embedding it reads a row per prompt only."""
        embedding, output = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        tied = output is not None and embedding is not None and output.weight is embedding.weight
        unread = 0 if tied or embedding is None else embedding.weight.numel() * embedding.weight.element_size()
        return sum(parameter.numel() * parameter.element_size() for parameter in parameters) - unread

    def copy_bandwidth(self, size: int = 256 * 2**20, repeats: int = 5) -> float:
        """Bytes/s, read and written, of copying `size` bytes on the device: the best of `repeats`."""
        source = torch.empty(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        best = float("inf")
        for _ in range(repeats + 1):  # the first one takes the memory
            self._synchronise()
            started = time.perf_counter()
            target.copy_(source)
            self._synchronise()
            best = min(best, time.perf_counter() - started)
        del source, target
        free_memory(self.device)
        return 2 * size / best

    def warm_up(self) -> None:
        """Generate two tokens once, so that the first real batch does not pay for lazy initialisation."""
        ids = torch.full((1, PAD_TO_MULTIPLE), self.generation.pad_token_id or 0, device=self.device)
        generation = copy.deepcopy(self.generation)
        generation.max_new_tokens = generation.min_new_tokens = 2
        with torch.inference_mode():
            self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=generation)
        self._synchronise()

    # --- one batch ---

    def generate(
        self,
        prompts: Sequence[Prompt],
        on_step: Callable[[Progress], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        measure: bool = False,
        max_new_tokens: int | None = None,
    ) -> BatchOutput:
        """Answer `prompts`; with at most `max_new_tokens` where given. `measure` keeps the time of every decode step.

        Raises:
            Cancelled: `cancelled()` became true; nothing of the batch counts.
        """
        started = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        errors: dict[int, str] = {}
        tokens: dict[int, list[int]] = {}
        for position, prompt in enumerate(prompts):
            try:
                tokens[position] = self._tokenise(prompt)
            except Exception as error:  # a template is the model's own program, it may raise anything
                errors[position] = f"prompt cannot be tokenised: {error}"
        for position, ids in list(tokens.items()):
            if problem := self._unfit(len(ids)):
                errors[position] = problem
                del tokens[position]
        answers: dict[int, Answer] = {}
        width = steps = 0
        prefill = decode = 0.0
        step_seconds: list[float] | None = None
        if tokens:
            generation = self.generation
            if max_new_tokens is not None:
                generation = copy.deepcopy(generation)
                generation.max_new_tokens = max_new_tokens
            padded = self._pad(tokens)
            width = padded["input_ids"].shape[1]
            watch = _StepWatch(
                len(tokens),
                width,
                self.eos_tokens,
                self.device,
                on_step,
                cancelled,
                self._synchronise,
                measure=measure,
            )
            answers, steps, prefill, decode = self._run(tokens, padded, generation, watch)
            step_seconds = watch.step_seconds
        records = [
            self._record(prompt, tokens.get(position, []), answers.get(position), errors.get(position))
            for position, prompt in enumerate(prompts)
        ]
        prompt_tokens = sum(len(ids) for ids in tokens.values())
        output_tokens = sum(len(answer.tokens) for answer in answers.values())
        slots = len(tokens) * (width + steps)
        result = BatchResult(
            rows=len(tokens),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            slots=slots,
            padded_slots=slots - prompt_tokens - output_tokens,
            steps=steps,
            prefill_seconds=prefill,
            decode_seconds=decode,
            seconds=time.perf_counter() - started,
            peak_memory_bytes=torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None,
            step_seconds=step_seconds,
        )
        return BatchOutput(records, result)

    def _pad(self, tokens: dict[int, list[int]]) -> Any:
        return self.tokenizer.pad(
            {"input_ids": list(tokens.values())},
            padding=True,
            padding_side="left",
            pad_to_multiple_of=PAD_TO_MULTIPLE,
            return_tensors="pt",
        ).to(self.device)  # input_ids and attention_mask, each [rows, width]

    def _run(
        self, tokens: dict[int, list[int]], padded: Any, generation: Any, watch: _StepWatch
    ) -> tuple[dict[int, Answer], int, float, float]:
        """One `generate` call: answers by position, steps, seconds of prefill and of decode."""
        width = padded["input_ids"].shape[1]
        self._synchronise()
        started = time.perf_counter()
        with torch.inference_mode():
            sequences = self.model.generate(
                input_ids=padded["input_ids"],
                attention_mask=padded["attention_mask"],
                generation_config=generation,
                stopping_criteria=transformers.StoppingCriteriaList([watch]),
            )  # [rows, width + steps]
        self._synchronise()
        ended = time.perf_counter()
        rows: list[list[int]] = sequences[:, width:].tolist()
        answers = {position: trim(row, self.eos_tokens) for position, row in zip(tokens, rows, strict=True)}
        prefill = watch.first_token_at - started
        return answers, sequences.shape[1] - width, prefill, ended - watch.first_token_at

    def _tokenise(self, prompt: Prompt) -> list[int]:
        if prompt.messages is None and not self._config.chat:
            ids: list[int] = self.tokenizer(prompt.text)["input_ids"]
            return ids
        messages = prompt.messages or [{"role": "user", "content": prompt.text}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # The template writes the special tokens itself: adding them again would double them.
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _unfit(self, prompt_tokens: int) -> str | None:
        if prompt_tokens == 0:
            return "prompt has no tokens"
        wanted = prompt_tokens + self._config.max_new_tokens
        if self.context_tokens is not None and wanted > self.context_tokens:
            return (
                f"prompt of {prompt_tokens:,} tokens and {self._config.max_new_tokens:,} new tokens do not fit "
                f"the model's context of {self.context_tokens:,}"
            )
        return None

    def _record(self, prompt: Prompt, ids: list[int], answer: Answer | None, error: str | None) -> OutputRecord:
        return OutputRecord(
            index=prompt.index,
            id=prompt.id,
            prompt=prompt_text(prompt),
            text=self.tokenizer.decode(answer.tokens, skip_special_tokens=True) if answer else "",
            prompt_tokens=len(ids),
            output_tokens=len(answer.tokens) if answer else 0,
            finish_reason=answer.finish_reason if answer else "error",
            error=error if answer is None else None,
        )

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device (or the host, for a CPU rank) had no memory left for what was asked."""
    text = str(error)
    signs = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in signs)


def free_memory(device: torch.device) -> None:
    """Give cached device memory back, for the retry and for other ranks on the same GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def choose_dtype(name: str, device: torch.device, checkpoint: torch.dtype | None) -> torch.dtype:
    """`auto`: float32 on a CPU (half types are several times slower there), else the checkpoint's own."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    return checkpoint if isinstance(checkpoint, torch.dtype) else torch.float16


def load(config: RunConfig, model_path: str, device: torch.device) -> StaticEngine:
    """Load model and tokenizer onto `device`, ready to generate (not warmed up)."""
    model_config = transformers.AutoConfig.from_pretrained(model_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path, padding_side="left")
    if tokenizer.pad_token_id is None:
        # Padding is masked and never counted: any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    dtype = choose_dtype(config.dtype, device, getattr(model_config, "dtype", None))
    # Straight onto the device: N ranks would otherwise hold N copies in the host's memory first.
    placed = {"device_map": {"": device}} if device.type == "cuda" else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype, **placed)
    return StaticEngine(model.to(device).eval(), tokenizer, config, device)


def _generation_config(model: Any, tokenizer: Any, config: RunConfig) -> Any:
    """The model's own generation config, with what the run asks for laid over it; greedy unless asked."""
    generation = copy.deepcopy(model.generation_config)
    generation.max_length = None
    generation.max_new_tokens = config.max_new_tokens
    generation.do_sample = config.do_sample
    generation.num_beams = 1  # a row of the batch is a row of the model's input, no more
    if config.do_sample:
        for name in ("temperature", "top_p", "top_k"):
            if (value := getattr(config, name)) is not None:
                setattr(generation, name, value)
    else:
        # Left in place they do nothing but make transformers warn at every batch.
        generation.temperature = generation.top_p = generation.top_k = None
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    if config.ignore_eos:
        generation.eos_token_id = None
    return generation
