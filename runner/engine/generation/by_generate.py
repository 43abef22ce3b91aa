"""Batches by transformers' `generate`, in which rows that have ended leave the batch: for whatever model there is.

A call of `generate` cannot drop rows. So once enough rows have ended the call is ended, those rows are taken out of
the cache, and another call continues with the rest. Prompts of different lengths are prefilled in groups, so that short
ones are not padded to the longest, and the groups' caches are joined. The answers are the same as from a single call,
because what a row attends to does not change.

Knows transformers' `generate` and its key and value cache; knows no records, ranks or settings.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from rankdeck.runner.engine.decoding.clock import Figures
from rankdeck.runner.engine.decoding.part import Group, Part
from rankdeck.runner.engine.experts import decoding_in_groups
from rankdeck.runner.engine.generation import settings
from rankdeck.runner.engine.generation.answers import answers_of
from rankdeck.runner.engine.generation.cache_rows import KeptRows, join, stacked
from rankdeck.runner.engine.generation.gumbel import BatchNoise, GumbelNoise
from rankdeck.runner.engine.generation.logit_rules import BatchRules
from rankdeck.runner.engine.private_names import CACHE
from rankdeck.runner.engine.rows import Answer, left_padded, slots_read
from rankdeck.runner.engine.step_watch import StepWatch
from rankdeck.runner.protocol import Experts


@dataclass
class _Rows:
    """Unfinished rows: token ids and attention mask, each [rows, width so far], and the cache of all but the last.

    `marks` are theirs where they have their first tokens already.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any
    marks: torch.Tensor | None = None


class ByGenerate:
    """One part of a batch, with `generation` as what `generate` itself is given.

    `leaving` says how many of so many rows must have ended before they leave; None where they stay to the end.
    """

    def __init__(
        self,
        model: Any,
        experts: Experts | None,
        generation: Any,
        eos_tokens: frozenset[int],
        watch: StepWatch,
        leaving: Callable[[int], int | None],
    ) -> None:
        self._model, self._experts, self._generation = model, experts, copy.copy(generation)
        self._eos_tokens, self._watch, self._leaving = eos_tokens, watch, leaving

    def run(
        self,
        part: Part,
        rules: BatchRules,
        noise: BatchNoise | None,
        on_answers: Callable[[dict[int, Answer]], None],
    ) -> Figures:
        """Generate until every row has ended; `on_answers` gets the answers by position, as they come.

        Rows are sampled with `noise`; without, each gets its likeliest tokens.
        """
        watch, self._noise = self._watch, noise
        watch.synchronise()
        began = watch.clock()
        begun = [self._begin(part, group, rules) for group in part.groups]
        batch = self._joined(begun, part.width)
        del begun  # the groups' own caches
        row_steps, read = self._run(part, batch, rules, on_answers)
        watch.synchronise()
        return Figures.of(watch, began, part.prompt_slots, row_steps, read)

    def _begin(self, part: Part, group: Group, rules: BatchRules) -> _Rows:
        """A group's prompts, padded to its width, with their first new tokens if there are several groups."""
        padded = left_padded([part.tokens[at] for at in group.at], group.width, self._generation.pad_token_id)
        ids, mask = (torch.tensor(rows).to(self._watch.device) for rows in padded)
        if len(part.groups) == 1:
            return _Rows(ids, mask, None)
        first = copy.copy(self._generation)
        first.max_new_tokens = 1
        applied = rules.for_rows(group.at, group.width)
        self._watch.begin_group(len(group.at), applied, group.width)
        with torch.inference_mode():
            output = self._call(ids, mask, first, None, [applied, self._noise_of(group.at, group.width)])
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return _Rows(output.sequences, mask, getattr(output, CACHE), self._watch.marks.values)

    def _joined(self, groups: list[_Rows], width: int) -> _Rows:
        """The groups as one batch, `width` wide: narrower groups are padded on the left, their caches too."""
        if len(groups) == 1:
            return groups[0]
        lacking = [width + 1 - group.ids.shape[1] for group in groups]
        cache = join([group.cache for group in groups], lacking)
        ids = stacked([group.ids for group in groups], lacking, self._generation.pad_token_id)
        mask = stacked([group.mask for group in groups], lacking, 0)
        marks = [group.marks for group in groups if group.marks is not None]
        return _Rows(ids, mask, cache, torch.cat(marks))

    def _run(
        self, part: Part, batch: _Rows, rules: BatchRules, ended: Callable[[dict[int, Answer]], None]
    ) -> tuple[int, int]:
        """Generate until every row has ended; `ended` gets answers by position.

        Returns rows summed over steps, and the slots that they read of the cache.
        """
        ids, mask, cache = batch.ids, batch.mask, batch.cache
        watch, width, most, marks = self._watch, part.width, part.new_tokens, batch.marks
        rows, row_steps, read = part.rows, 0, 0
        begun = cache is not None  # with one new token per row
        with torch.inference_mode():
            while rows:
                before = watch.steps
                if begun:
                    steps, begun = 1, False
                else:
                    self._generation.max_new_tokens = most - before
                    applied = rules.for_rows(rows, width)
                    watch.begin(len(rows), applied, self._leaving(len(rows)))
                    also = [applied, self._noise_of(rows, width)]
                    output = self._call(ids, mask, self._generation, cache, also)
                    marks = watch.marks.values
                    ids, cache = output.sequences, getattr(output, CACHE)  # ids: [rows, width + steps]
                    steps = watch.steps - before
                    mask = torch.cat([mask, mask.new_ones(len(mask), steps)], dim=1)
                row_steps += steps * len(rows)
                read += slots_read(len(rows), width, steps, watch.steps)
                new, known = ids[:, width:].tolist(), [] if marks is None else marks.tolist()
                answers = answers_of(new, known, self._eos_tokens, self._model.dtype)
                over = watch.steps >= most
                going = [place for place, answer in enumerate(answers) if not over and answer.finish_reason == "length"]
                stays = set(going)
                ended({at: answers[place] for place, at in enumerate(rows) if place not in stays})
                if going and len(going) < len(rows):
                    kept = KeptRows(going)
                    kept.take_out(cache)
                    mask, ids = mask[kept.on(mask.device)], ids[kept.on(ids.device)]
                rows = [rows[place] for place in going]
        return row_steps, read

    def _noise_of(self, rows: list[int], width: int) -> GumbelNoise | None:
        return None if self._noise is None else self._noise.for_rows(rows, width)

    def _call(self, ids: torch.Tensor, mask: torch.Tensor, generation: Any, cache: Any, also: list[Any]) -> Any:
        """Call `generate` once; with a `cache` it continues from there. `also` are processors, or None."""
        processors = [self._watch.logit_check, *(processor for processor in also if processor is not None)]
        grouped = decoding_in_groups(self._model, self._experts, len(ids))
        with grouped, settings.nothing_to_fill_in(self._model):
            output = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=generation,
                logits_processor=transformers.LogitsProcessorList(processors),
                stopping_criteria=transformers.StoppingCriteriaList([self._watch]),
                **({} if cache is None else {CACHE: cache}),
            )
        self._watch.check(output.sequences)
        return output
