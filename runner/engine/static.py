"""The static engine: one left-padded batch at a time, with `generate`. Rows that have ended leave the batch.

Knows transformers' `generate` and its key and value cache. A call of `generate` cannot drop rows. So once enough rows
have ended the call is ended, those rows are taken out of the cache, and another call continues with the rest. Prompts
of different lengths are prefilled in groups, so that short ones are not padded to the longest, and the groups' caches
are joined. The answers are the same as from a single call, because what a row attends to does not change.
"""

import copy
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from rankdeck.runner.engine import compiling, errors
from rankdeck.runner.engine.base import BatchOptions, BatchOutput, Engine
from rankdeck.runner.engine.compiling import BEFORE, ON_A_CPU, Compiling
from rankdeck.runner.engine.experts import decoding_in_groups
from rankdeck.runner.engine.private_names import CACHE
from rankdeck.runner.engine.rows import (
    Answer,
    Cancelled,
    group_by_width,
    group_slots,
    leaving,
    left_padded,
    slots_read,
    trim,
)
from rankdeck.runner.engine.step_watch import StepWatch
from rankdeck.runner.protocol import BatchResult, OutputRecord, Prompt
from rankdeck.runner.protocol.config import RunConfig

PAD_TO_MULTIPLE = 8

COUNTED_FROM_THE_PROMPT = (
    "begin_suppress_tokens",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "guidance_scale",
    "watermarking_config",
)
"""Settings of a generation config that a second call would count from its own start, not from the prompt's."""


class KeptRows:
    """The rows of a batch that stay, as an index on every device that asks for it.

    A CPU index would work on tensors of any device, but torch would copy it again for every layer's keys and values.
    """

    def __init__(self, rows: list[int]) -> None:
        self._host = torch.tensor(rows)
        self._on: dict[torch.device, torch.Tensor] = {}

    def on(self, device: torch.device) -> torch.Tensor:
        """The index, [rows that stay], on `device`: copied there once."""
        if device not in self._on:
            self._on[device] = self._host.to(device)
        return self._on[device]


@dataclass
class _Rows:
    """Unfinished rows: token ids and attention mask, each [rows, width so far], and the cache of all but the last."""

    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any


class StaticEngine(Engine):
    """Left padding to a multiple of 8 where lengths differ; all rows of a batch begin together."""

    name = "static"

    def __init__(self, model: Any, tokenizer: Any, config: RunConfig, device: torch.device) -> None:
        super().__init__(model, tokenizer, config, device)
        self.generation.return_dict_in_generate = True
        self.why_rows_stay: str | None = None
        """Why rows that have ended stay in their batch with this model; set by `warm_up`."""

        layers = getattr(model.config.get_text_config(), "num_hidden_layers", None) or 1
        self._group_slots = group_slots(device.type, layers, model.num_parameters())
        self._may_join = False
        why_not = compiling.why_not(model) if config.compile else None
        if why_not is not None:
            self._notes.append(f"--compile has no effect: {why_not}")
        self._compiling = Compiling(self._notes.append) if config.compile and why_not is None else None
        if self._compiling is not None:
            self._notes.append(f"{BEFORE}; {ON_A_CPU}" if device.type == "cpu" else BEFORE)
            self.why_rows_stay = "--compile fixes its shape"

    def warm_up(self) -> None:
        """Generate a few tokens, and test whether rows can leave: not every kind of cache allows it."""
        for name in COUNTED_FROM_THE_PROMPT:
            if getattr(self.generation, name, None) not in (None, 1, 1.0):
                self.why_rows_stay = f"the model's generation config has {name}"
        ids = torch.full((2, PAD_TO_MULTIPLE), self.generation.pad_token_id, device=self.device)
        generation = copy.deepcopy(self.generation)
        generation.max_new_tokens = generation.min_new_tokens = 2
        with torch.inference_mode():
            output = self._call(ids, torch.ones_like(ids), generation, None, None)
            if self.why_rows_stay is None:
                try:
                    kept = KeptRows([1])
                    cache = getattr(output, CACHE)
                    self._take_out(cache, kept)
                    ids = output.sequences[kept.on(output.sequences.device)]
                    self._call(ids, torch.ones_like(ids), generation, cache, None)
                    # A sliding window, or a state that is not a list of keys, cannot be shifted to the right.
                    plain = transformers.cache_utils.DynamicLayer
                    self._may_join = all(type(layer) is plain for layer in cache.layers)
                except Exception as error:
                    if errors.is_out_of_memory(error):
                        raise  # which says nothing about the cache
                    self.why_rows_stay = f"its cache cannot lose rows ({type(error).__name__}: {error})"
        self._synchronise()

    def _generate(self, prompts: Sequence[Prompt], options: BatchOptions) -> BatchOutput:
        started = time.perf_counter()
        self._reset_peak_memory()
        tokens, unfit = self.tokenise(prompts)
        records: dict[int, OutputRecord] = {at: self.refused(prompts[at], problem) for at, problem in unfit.items()}
        if unfit:
            options.on_records(list(records.values()))
        prefill = decode = 0.0
        prompt_slots = steps = row_steps = read = 0
        step_seconds: list[float] | None = None
        if tokens:
            generation = copy.deepcopy(self.generation)
            if options.max_new_tokens is not None:
                generation.max_new_tokens = options.max_new_tokens
            groups = self._groups({at: len(ids) for at, ids in tokens.items()})
            widths = [self._width([len(tokens[at]) for at in group]) for group in groups]
            prompt_slots = sum(len(group) * width for group, width in zip(groups, widths, strict=True))
            watch = StepWatch(
                max(widths),
                self.eos_tokens,
                self.device,
                on_step=options.on_step,
                cancelled=options.cancelled,
                synchronise=self._synchronise,
                measure=options.measure,
            )

            def ended(answers: dict[int, Answer]) -> None:
                with watch.handing_over():
                    new = {at: self.answered(prompts[at], len(tokens[at]), answer) for at, answer in answers.items()}
                    records.update(new)
                    options.on_records(list(new.values()))

            self._synchronise()
            began = watch.clock()
            begun = [
                self._begin([tokens[at] for at in group], width, generation, watch, len(groups))
                for group, width in zip(groups, widths, strict=True)
            ]
            rows = [at for group in groups for at in group]
            batch = self._joined(begun, watch.prompt_width)
            del begun  # the groups' own caches
            row_steps, read = self._run(rows, batch, generation, watch, ended)
            self._synchronise()
            prefill, decode = watch.first_token_at - began, watch.clock() - watch.first_token_at
            steps, step_seconds = watch.steps, watch.step_seconds
            if self._compiling is not None:
                length = watch.prompt_width + generation.max_new_tokens
                self._compiling.learn(len(tokens), length, steps, decode)
        prompt_tokens = sum(len(ids) for ids in tokens.values())
        output_tokens = sum(record.output_tokens for record in records.values())
        slots = prompt_slots + row_steps
        result = BatchResult(
            rows=len(tokens),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            slots=slots,
            padded_slots=slots - prompt_tokens - output_tokens,
            steps=steps,
            row_steps=row_steps,
            prefill_seconds=prefill,
            decode_seconds=decode,
            seconds=time.perf_counter() - started,
            peak_memory_bytes=self.peak_memory(),
            reserved_memory_bytes=self.reserved_memory(),
            step_seconds=step_seconds,
            slots_read=read,
        )
        return BatchOutput([records[at] for at in range(len(prompts))], result)

    def _closes_after(self, error: BaseException) -> bool:
        # Out of memory, above all: the next try is to have all there is.
        return not isinstance(error, Cancelled)

    def close(self) -> None:
        """Free the cache of compiled batches: nothing else is kept between batches."""
        if self._compiling is not None:
            self._compiling.forget()

    def _width(self, lengths: Collection[int]) -> int:
        """The width that prompts of these lengths are padded to together.

        Where all are equally long there is no padding, and so no attention mask, which would keep torch from its
        fastest attention (flash takes none).
        """
        if self._compiling is None and len(set(lengths)) == 1:
            return next(iter(lengths))
        return self._rounded(max(lengths))

    def _rounded(self, length: int) -> int:
        multiple = PAD_TO_MULTIPLE if self._compiling is None else compiling.PAD_TO_MULTIPLE
        return -(-length // multiple) * multiple

    def _groups(self, lengths: dict[int, int]) -> list[list[int]]:
        """Which prompts are prefilled together, by position."""
        if not self._may_join or self._compiling is not None:
            return [list(lengths)]
        return group_by_width({at: self._rounded(length) for at, length in lengths.items()}, self._group_slots)

    def _begin(
        self, prompts: Sequence[list[int]], width: int, generation: Any, watch: StepWatch, groups: int
    ) -> "_Rows":
        """A group's prompts, padded to `width`, with their first new tokens if there are several groups."""
        padded = left_padded(prompts, width, self.generation.pad_token_id)
        ids, mask = (torch.tensor(part).to(self.device) for part in padded)
        if groups == 1:
            return _Rows(ids, mask, None)
        first = copy.deepcopy(generation)
        first.max_new_tokens = 1
        if generation.max_new_tokens > 1:
            first.forced_eos_token_id = None  # the first token is not the last
        first.min_new_tokens = None if generation.min_new_tokens is None else min(1, generation.min_new_tokens)
        watch.begin_group(len(prompts), width)
        with torch.inference_mode():
            output = self._call(ids, mask, first, None, watch)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return _Rows(output.sequences, mask, getattr(output, CACHE))

    def _joined(self, groups: "list[_Rows]", width: int) -> "_Rows":
        """The groups as one batch, `width` wide: narrower groups are padded on the left, their caches too."""
        if len(groups) == 1:
            return groups[0]
        lacking = [width + 1 - group.ids.shape[1] for group in groups]
        pad = self.generation.pad_token_id
        cache = groups[0].cache
        for place, layer in enumerate(cache.layers):
            for name in ("keys", "values"):
                parts = (
                    torch.nn.functional.pad(getattr(group.cache.layers[place], name), (0, 0, less, 0))
                    for group, less in zip(groups, lacking, strict=True)
                )  # each [rows, heads, width, head width]
                setattr(layer, name, torch.cat(list(parts)))
                for group in groups[1:]:  # freed layer by layer: prompts may fill most of a GPU's memory
                    setattr(group.cache.layers[place], name, None)
        ids, mask = (
            torch.cat(
                [
                    torch.nn.functional.pad(getattr(group, name), (less, 0), value=filling)
                    for group, less in zip(groups, lacking, strict=True)
                ]
            )
            for name, filling in (("ids", pad), ("mask", 0))
        )
        return _Rows(ids, mask, cache)

    def _run(
        self,
        rows: list[int],
        batch: "_Rows",
        generation: Any,
        watch: StepWatch,
        ended: Callable[[dict[int, Answer]], None],
    ) -> tuple[int, int]:
        """Generate until every row has ended; `ended` gets answers by position.

        Returns rows summed over steps, and the slots that they read of the cache.
        """
        ids, mask, cache = batch.ids, batch.mask, batch.cache
        width, most = watch.prompt_width, generation.max_new_tokens
        least, row_steps, read = generation.min_new_tokens, 0, 0
        begun = cache is not None  # with one new token per row
        with torch.inference_mode():
            if self._compiling is not None:
                cache = self._compiling.prepare(generation, len(rows), width + most)
            while rows:
                before = watch.steps
                if begun:
                    steps, begun = 1, False
                else:
                    generation.max_new_tokens = most - before
                    generation.min_new_tokens = None if least is None else max(0, least - before)
                    watch.begin(len(rows), self._leaving(len(rows)))
                    output = self._call(ids, mask, generation, cache, watch)
                    ids, cache = output.sequences, getattr(output, CACHE)  # ids: [rows, width + steps]
                    steps = watch.steps - before
                    mask = torch.cat([mask, mask.new_ones(len(mask), steps)], dim=1)
                row_steps += steps * len(rows)
                read += slots_read(len(rows), width, steps, watch.steps)
                answers = [trim(row, self.eos_tokens) for row in ids[:, width:].tolist()]
                over = watch.steps >= most
                going = [place for place, answer in enumerate(answers) if not over and answer.finish_reason == "length"]
                stays = set(going)
                ended({at: answers[place] for place, at in enumerate(rows) if place not in stays})
                if going and len(going) < len(rows):
                    kept = KeptRows(going)
                    self._take_out(cache, kept)
                    mask, ids = mask[kept.on(mask.device)], ids[kept.on(ids.device)]
                rows = [rows[place] for place in going]
            if self._compiling is not None:
                self._compiling.keep(len(batch.ids), width + most, cache)
        return row_steps, read

    def _leaving(self, rows: int) -> int | None:
        """How many of `rows` must have ended before they leave; None where they stay to the end."""
        if self.why_rows_stay is not None or not self.eos_tokens:
            return None
        return leaving(self.device.type, rows)

    def _call(self, ids: torch.Tensor, mask: torch.Tensor, generation: Any, cache: Any, watch: StepWatch | None) -> Any:
        """Call `generate` once; with a `cache` it continues from there."""
        # A grouped product may read on the host how many rows each expert has: no graph can be captured of it.
        captured = self._compiling is not None and self._compiling.begun
        with decoding_in_groups(self.model, None if captured else self._experts, len(ids)):
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=generation,
                stopping_criteria=transformers.StoppingCriteriaList([watch] if watch else []),
                **({} if cache is None else {CACHE: cache}),
            )
        if watch is not None:
            watch.check(output.sequences)
        return output

    @staticmethod
    def _take_out(cache: Any, kept: KeptRows) -> None:
        """Keep only these rows of a cache. The layers of a spread model are on several devices."""
        for layer in cache.layers:
            if layer.keys is not None:  # some layers use another's keys
                layer.batch_select_indices(kept.on(layer.keys.device))
