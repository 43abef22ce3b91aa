"""The static engine: one left-padded batch at a time, with `generate`. Rows that have ended leave the batch.

Knows transformers' `generate` and its key and value cache. A call of `generate` cannot drop rows. So once enough rows
have ended the call is ended, those rows are taken out of the cache, and another call continues with the rest. Prompts
of different lengths are prefilled in groups, so that short ones are not padded to the longest, and the groups' caches
are joined. The answers are the same as from a single call, because what a row attends to does not change. Where that is
not so with a model, `runner.engine.trials.rehearsal` finds it out: its rows are not padded, or stay, or go one by one.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from rankdeck.runner.engine import compiling, errors, memory
from rankdeck.runner.engine.base import BatchOptions, BatchOutput, Engine
from rankdeck.runner.engine.compiling import CompiledStepsError, Compiling
from rankdeck.runner.engine.experts import decoding_in_groups
from rankdeck.runner.engine.generation import logit_rules, long_texts, settings
from rankdeck.runner.engine.generation.cache_rows import KeptRows, join, stacked
from rankdeck.runner.engine.generation.logit_rules import BatchRules, LogitRules, RowRules
from rankdeck.runner.engine.generation.marks import UNUSABLE, LogitCheck, read, words
from rankdeck.runner.engine.generation.own_state import OwnState
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
from rankdeck.runner.engine.step_watch import Figures, StepWatch
from rankdeck.runner.engine.trials import rehearsal, static_cache
from rankdeck.runner.engine.trials.rehearsal import Together
from rankdeck.runner.protocol import BatchResult, OutputRecord, Prompt
from rankdeck.runner.protocol.config import RunConfig

PAD_TO_MULTIPLE = 8


@dataclass
class _Rows:
    """Unfinished rows: token ids and attention mask, each [rows, width so far], and the cache of all but the last.

    `marks` are theirs where they have their first tokens already.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any
    marks: torch.Tensor | None = None


class StaticEngine(Engine):
    """Left padding to a multiple of 8 where lengths differ; all rows of a batch begin together."""

    name = "static"

    def __init__(self, model: Any, tokenizer: Any, config: RunConfig, device: torch.device) -> None:
        super().__init__(model, tokenizer, config, device)
        self.why_rows_stay: str | None = None
        """Why rows that have ended stay in their batch with this model, compiled or not; set by `warm_up`."""

        layers = getattr(model.config.get_text_config(), "num_hidden_layers", None) or 1
        self._group_slots = group_slots(device.type, layers, model.num_parameters())
        self._together: Together = "padded"
        self._padded_up_to = long_texts.padded_up_to(model.config, self.context_tokens)
        if self._padded_up_to is not None:
            self._notes.append(long_texts.words(self._padded_up_to))
        self._own_state: OwnState | None = None
        self._may_join = False
        self._bare = settings.bare(self.generation)
        self._rules = LogitRules(model, tokenizer, self.generation, device)
        if self._rules.by_row:
            self._notes.append(logit_rules.ONE_AT_A_TIME)
        why_not = (compiling.why_not(model) or self._why_not_compiled()) if config.compile else None
        self._compiling = Compiling(self._notes.append) if config.compile else None
        if why_not is not None:
            self._leave_compiling(f"{compiling.NO_EFFECT}: {why_not}")

    def _why_not_compiled(self) -> str | None:
        return None if self._padded_up_to is None else "it pads prompts, and long ones of this model must not be padded"

    def warm_up(self) -> None:
        """Generate a little, to find out which rows go together with this model, and whether they can leave."""
        trial = self.model, self.tokenizer, self.generation.pad_token_id, self.device
        found = rehearsal.rehearse(*trial)
        self._together = "alone" if self._rules.has_own else found.together
        self._may_join, self.why_rows_stay = found.may_join, found.why_rows_stay
        if self._together != "padded":
            self._notes.append(logit_rules.OWN if self._rules.has_own else rehearsal.WORDS[found.together])
        if self._compiling is not None:
            why_not = compiling.NO_WIDTHS if self._together != "padded" else static_cache.why_not(*trial)
            if why_not is None:
                self._notes.append(compiling.announced(self.device.type))
            else:
                self._leave_compiling(f"{compiling.NO_EFFECT}: {why_not}")
        # A rehearsal's texts are too short to show what a long one leaves.
        leaves_state = found.leaves_state or self._padded_up_to is not None
        self._own_state = OwnState(self.model) if leaves_state else None
        self._synchronise()

    def _leave_compiling(self, note: str) -> None:
        """Compile nothing from now on, and say so: batches are then what they are without --compile."""
        self.close()
        self._compiling = None
        self._notes.append(note)

    def _generate(self, prompts: Sequence[Prompt], options: BatchOptions) -> BatchOutput:
        started = time.perf_counter()
        self._reset_peak_memory()
        tokens, unfit = self.tokenise(prompts)
        records: dict[int, OutputRecord] = {at: self.refused(prompts[at], problem) for at, problem in unfit.items()}
        if unfit:
            options.on_records(list(records.values()))
        figures = Figures()

        def ended(answers: dict[int, Answer]) -> None:
            new = {at: self.answered(prompts[at], len(tokens[at]), answer) for at, answer in answers.items()}
            records.update(new)
            options.on_records(list(new.values()))

        try:
            self._generate_parts(tokens, options, ended, figures)
        except CompiledStepsError as error:
            errors.forget_frames(error)
            self._leave_compiling(f"{compiling.GIVEN_UP}: {error}")
        if left := {at: tokens[at] for at in tokens if at not in records}:
            memory.free_memory(self.device)
            self._generate_parts(left, options, ended, figures)
        prompt_tokens = sum(len(ids) for ids in tokens.values())
        output_tokens = sum(record.output_tokens for record in records.values())
        slots = figures.prompt_slots + figures.row_steps
        result = BatchResult(
            rows=len(tokens),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            slots=slots,
            padded_slots=slots - prompt_tokens - output_tokens,
            steps=figures.steps,
            row_steps=figures.row_steps,
            prefill_seconds=figures.prefill,
            decode_seconds=figures.decode,
            seconds=time.perf_counter() - started,
            peak_memory_bytes=self.peak_memory(),
            reserved_memory_bytes=self.reserved_memory(),
            step_seconds=figures.step_seconds,
            slots_read=figures.read,
        )
        return BatchOutput([records[at] for at in range(len(prompts))], result)

    def _parts(self, lengths: dict[int, int], new_tokens: int) -> list[list[int]]:
        """Which prompts of a batch are generated together, by position; the parts go one after the other."""
        if self._together == "alone":
            return [[at] for at in lengths]
        padded: list[int] = []
        alike: dict[int, list[int]] = {}
        for at, length in lengths.items():
            short = self._padded_up_to is None or self._rounded(length) + new_tokens <= self._padded_up_to
            (padded if short and self._together == "padded" else alike.setdefault(length, [])).append(at)
        return [part for part in (padded, *alike.values()) if part]

    def _generate_parts(
        self,
        tokens: dict[int, list[int]],
        options: BatchOptions,
        on_answers: Callable[[dict[int, Answer]], None],
        figures: Figures,
    ) -> None:
        """Answer prompts, token ids by position, each with those that it goes together with."""
        new_tokens = options.max_new_tokens or self.generation.max_new_tokens
        for part in self._parts({at: len(ids) for at, ids in tokens.items()}, new_tokens):
            self._generate_part({at: tokens[at] for at in part}, options, on_answers, figures)

    def _generate_part(
        self,
        tokens: dict[int, list[int]],
        options: BatchOptions,
        on_answers: Callable[[dict[int, Answer]], None],
        figures: Figures,
    ) -> None:
        """Answer prompts, token ids by position, that go together; `on_answers` gets the answers as they come."""
        generation = copy.deepcopy(self._bare)
        if options.max_new_tokens is not None:
            generation.max_new_tokens = options.max_new_tokens
        groups = self._groups({at: len(ids) for at, ids in tokens.items()})
        widths = [self._width([len(tokens[at]) for at in group]) for group in groups]
        rules = self._rules.of_batch(tokens, generation.max_new_tokens)
        watch = StepWatch(
            max(widths),
            self.eos_tokens,
            self.device,
            LogitCheck(
                sampled=bool(generation.do_sample),
                infinite_is_replaced=bool(self.generation.remove_invalid_values),
            ),
            on_step=options.on_step,
            cancelled=options.cancelled,
            synchronise=self._synchronise,
            measure=options.measure,
        )

        def ended(answers: dict[int, Answer]) -> None:
            with watch.handing_over():
                on_answers(answers)

        if self._own_state is not None:
            self._own_state.restore()
        self._synchronise()
        began = watch.clock()
        begun = [
            self._begin(
                [tokens[at] for at in group], rules.for_rows(group, width), width, generation, watch, len(groups)
            )
            for group, width in zip(groups, widths, strict=True)
        ]
        batch = self._joined(begun, watch.prompt_width)
        del begun  # the groups' own caches
        row_steps, read = self._run([at for group in groups for at in group], batch, rules, generation, watch, ended)
        self._synchronise()
        prompt_slots = sum(len(group) * width for group, width in zip(groups, widths, strict=True))
        figures.add(watch, began, prompt_slots, row_steps, read)
        if self._compiling is not None:
            length = watch.prompt_width + generation.max_new_tokens
            self._compiling.learn(len(tokens), length, watch.steps, watch.clock() - watch.first_token_at)

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
        self,
        prompts: Sequence[list[int]],
        rules: RowRules | None,
        width: int,
        generation: Any,
        watch: StepWatch,
        groups: int,
    ) -> "_Rows":
        """A group's prompts, padded to `width`, with their first new tokens if there are several groups."""
        padded = left_padded(prompts, width, self.generation.pad_token_id)
        ids, mask = (torch.tensor(part).to(self.device) for part in padded)
        if groups == 1:
            return _Rows(ids, mask, None)
        first = copy.deepcopy(generation)
        first.max_new_tokens = 1
        watch.begin_group(len(prompts), rules, width)
        with torch.inference_mode():
            output = self._call(ids, mask, first, None, watch, rules)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return _Rows(output.sequences, mask, getattr(output, CACHE), watch.marks.values)

    def _joined(self, groups: "list[_Rows]", width: int) -> "_Rows":
        """The groups as one batch, `width` wide: narrower groups are padded on the left, their caches too."""
        if len(groups) == 1:
            return groups[0]
        lacking = [width + 1 - group.ids.shape[1] for group in groups]
        cache = join([group.cache for group in groups], lacking)
        ids = stacked([group.ids for group in groups], lacking, self.generation.pad_token_id)
        mask = stacked([group.mask for group in groups], lacking, 0)
        marks = [group.marks for group in groups if group.marks is not None]
        return _Rows(ids, mask, cache, torch.cat(marks))

    def _run(
        self,
        rows: list[int],
        batch: "_Rows",
        rules: BatchRules,
        generation: Any,
        watch: StepWatch,
        ended: Callable[[dict[int, Answer]], None],
    ) -> tuple[int, int]:
        """Generate until every row has ended; `ended` gets answers by position.

        Returns rows summed over steps, and the slots that they read of the cache.
        """
        ids, mask, cache = batch.ids, batch.mask, batch.cache
        width, most, marks = watch.prompt_width, generation.max_new_tokens, batch.marks
        row_steps, read = 0, 0
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
                    applied = rules.for_rows(rows, width)
                    watch.begin(len(rows), applied, self._leaving(len(rows)))
                    output = self._call(ids, mask, generation, cache, watch, applied)
                    marks = watch.marks.values
                    ids, cache = output.sequences, getattr(output, CACHE)  # ids: [rows, width + steps]
                    steps = watch.steps - before
                    mask = torch.cat([mask, mask.new_ones(len(mask), steps)], dim=1)
                row_steps += steps * len(rows)
                read += slots_read(len(rows), width, steps, watch.steps)
                answers = self._answers(ids[:, width:].tolist(), [] if marks is None else marks.tolist())
                over = watch.steps >= most
                going = [place for place, answer in enumerate(answers) if not over and answer.finish_reason == "length"]
                stays = set(going)
                ended({at: answers[place] for place, at in enumerate(rows) if place not in stays})
                if going and len(going) < len(rows):
                    kept = KeptRows(going)
                    kept.take_out(cache)
                    mask, ids = mask[kept.on(mask.device)], ids[kept.on(ids.device)]
                rows = [rows[place] for place in going]
            if self._compiling is not None:
                self._compiling.keep(len(batch.ids), width + most, cache)
        return row_steps, read

    def _answers(self, rows: list[list[int]], marks: list[int]) -> list[Answer]:
        """The answers so far, from all new tokens of the rows and their marks."""
        answers = []
        for tokens, mark in zip(rows, marks, strict=True):
            step, kind = read(mark)
            answer = trim(tokens, self.eos_tokens, step)
            if step is not None and kind in UNUSABLE and len(answer.tokens) == step:
                problem = words(kind, step, self.model.dtype)
                answer = Answer([], "error", problem)
            answers.append(answer)
        return answers

    def _leaving(self, rows: int) -> int | None:
        """How many of `rows` must have ended before they leave; None where they stay to the end."""
        fixed = self._compiling is not None or self.why_rows_stay is not None
        if fixed or not (self.eos_tokens or self._rules.ends_rows):
            return None
        return leaving(self.device.type, rows)

    def _call(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        generation: Any,
        cache: Any,
        watch: StepWatch,
        rules: RowRules | None,
    ) -> Any:
        """Call `generate` once; with a `cache` it continues from there."""
        # A grouped product may read on the host how many rows each expert has: no graph can be captured of it.
        captured = self._compiling is not None and self._compiling.begun
        grouped = decoding_in_groups(self.model, None if captured else self._experts, len(ids))
        processors = [watch.logit_check, *([] if rules is None else [rules])]
        blamed = compiling.blamed(self.devices) if captured else contextlib.nullcontext()
        with blamed, grouped, settings.nothing_to_fill_in(self.model):
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=generation,
                logits_processor=transformers.LogitsProcessorList(processors),
                stopping_criteria=transformers.StoppingCriteriaList([watch]),
                **({} if cache is None else {CACHE: cache}),
            )
        watch.check(output.sequences)
        return output
