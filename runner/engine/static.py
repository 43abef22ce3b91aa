"""The static engine: one batch at a time. Rows that have ended leave the batch.

Two ways to run a batch: the decode loop (`runner.engine.decoding`), and transformers' `generate`
(`runner.engine.generation.by_generate`) for models and settings that the loop does not take, with one line why. The
loop prefills prompts one after another, without padding; where a model cannot do that they stand side by side, those of
like lengths in a group, so that short ones are not padded to the longest. Which rows go together with a model, and
whether the loop gives its very logits, `runner.engine.trials.rehearsal` finds out: its rows are then not padded, or
stay, or go one by one.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from rankdeck.runner.engine import errors, memory
from rankdeck.runner.engine.base import BatchOptions, BatchOutput, Engine
from rankdeck.runner.engine.decoding import forward, lookup_attention, loop
from rankdeck.runner.engine.decoding.clock import BatchClock, Figures
from rankdeck.runner.engine.decoding.forward import Forward
from rankdeck.runner.engine.decoding.graphs import CaptureError
from rankdeck.runner.engine.decoding.loop import OnAnswers
from rankdeck.runner.engine.decoding.part import Group, Part
from rankdeck.runner.engine.decoding.prefixes import Shared, shared_prefixes
from rankdeck.runner.engine.decoding.ragged import in_passes
from rankdeck.runner.engine.decoding.token_choice import TokenChoice
from rankdeck.runner.engine.decoding.workspace import Workspace
from rankdeck.runner.engine.generation import logit_rules, long_texts, settings
from rankdeck.runner.engine.generation.by_generate import ByGenerate
from rankdeck.runner.engine.generation.gumbel import BatchNoise
from rankdeck.runner.engine.generation.logit_rules import LogitRules
from rankdeck.runner.engine.generation.marks import LogitCheck
from rankdeck.runner.engine.generation.own_state import OwnState
from rankdeck.runner.engine.rows import Answer, Cancelled, group_by_width, group_slots, leaving, pass_tokens
from rankdeck.runner.engine.step_watch import StepWatch
from rankdeck.runner.engine.trials import rehearsal
from rankdeck.runner.engine.trials.rehearsal import Found, Together
from rankdeck.runner.protocol import BatchResult, OutputRecord, Prompt
from rankdeck.runner.protocol.config import RunConfig

PAD_TO_MULTIPLE = 8

BY_GENERATE = "batches go by transformers' generate, not by the decode loop"
OTHER = "the loop gives other answers with this model, or cannot move its rows"
ONE_BY_ONE = "its rows go one by one"
CAPTURED = "decode steps are captured as CUDA graphs, each launched as one"
NOT_CAPTURED = "decode steps are not captured as CUDA graphs, so they are slower"
BY_TEXT = "the model's generation config has settings that look at a row's own text or length"


class StaticEngine(Engine):
    """Left padding to a multiple of 8 where lengths differ; all rows of a batch begin together."""

    name = "static"

    def __init__(self, model: Any, tokenizer: Any, config: RunConfig, device: torch.device) -> None:
        super().__init__(model, tokenizer, config, device)
        self.why_rows_stay: str | None = None
        """Why rows that have ended stay in their batch with this model, set by `warm_up`."""

        layers = getattr(model.config.get_text_config(), "num_hidden_layers", None) or 1
        self._group_slots = group_slots(device.type, layers, model.num_parameters())
        self._together: Together = "padded"
        self._padded_up_to = long_texts.padded_up_to(model.config, self.context_tokens)
        if self._padded_up_to is not None:
            self._notes.append(long_texts.words(self._padded_up_to))
        self._own_state: OwnState | None = None
        self._may_join = False
        self._bare = settings.bare(self.generation)
        self._bare.do_sample = False  # the likeliest token is taken, after noise if the run samples
        self._rules = LogitRules(model, tokenizer, self.generation, device)
        if self._rules.by_row:
            self._notes.append(logit_rules.ONE_AT_A_TIME)
        self._workspace: Workspace | None = None  # of the decode loop; None where batches go by `generate`
        self._captures = device.type == "cuda"
        self._before: list[int] = []  # a prompt of the batch before
        self._told_of_prefixes = self._told_of_graphs = False

    def warm_up(self) -> None:
        """Generate a little, to find out which rows go together with this model, and whether they can leave."""
        why_not = self._why_no_loop()
        workspaces = self._workspaces() if why_not is None else []
        workspace = workspaces.pop(0) if workspaces else None
        found = self._rehearsed(workspace)
        while workspaces and found.may_join and not found.loops:
            workspace = workspaces.pop(0)
            found = self._rehearsed(workspace)
        self._together = "alone" if self._rules.has_own else found.together
        self._may_join, self.why_rows_stay = found.may_join, found.why_rows_stay
        if self._together != "padded":
            self._notes.append(logit_rules.OWN if self._rules.has_own else rehearsal.WORDS[found.together])
        # A rehearsal's texts are too short to show what a long one leaves.
        leaves_state = found.leaves_state or self._padded_up_to is not None
        self._own_state = OwnState(self.model) if leaves_state else None
        self._workspace = workspace if found.loops and not leaves_state else None
        if self._workspace is None and self._config.decoding == "auto":
            self._notes.append(f"{BY_GENERATE}: {why_not or OTHER}")
        self._synchronise()

    def _workspaces(self) -> list[Workspace]:
        """What the decode loop may run in with this model, fastest first; last with its own attention alone."""
        passes, pad = Forward(self.model, self._experts), self.generation.pad_token_id
        usual = self._config.attention in ("auto", "sdpa") and forward.attention_of(self.model) == "sdpa"
        ragged = usual and forward.takes_any_attention(self.model)
        by_lookup = usual and self._may_look_up()
        return [
            Workspace(passes, self.device, pad, by_lookup=looks_up, ragged=is_ragged)
            for is_ragged in (True, False)[not ragged :]
            for looks_up in (True, False)[not by_lookup :]
        ]

    def _rehearsed(self, workspace: Workspace | None) -> Found:
        trial = self.model, self.tokenizer, self.generation.pad_token_id, self.device
        if workspace is None:
            return rehearsal.rehearse(*trial, None, self.findings)
        return rehearsal.rehearse(*trial, workspace.told, self.findings, loop=workspace.way)

    def _may_look_up(self) -> bool:
        """Whether the attention of decode steps may be by lookup: on a CPU, in float32."""
        float32 = all(parameter.dtype == torch.float32 for parameter in self.model.parameters())
        return self.device.type == "cpu" and float32 and lookup_attention.is_there()

    @property
    def in_loop(self) -> bool:
        """Whether batches go by the decode loop; known after `warm_up`."""
        return self._workspace is not None

    def _why_no_loop(self) -> str | None:
        """Why batches do not go by the decode loop, as far as it is known before it is tried; None if they may."""
        if self._config.decoding == "generate":
            return "asked for"
        if len(self.devices) > 1:
            return "the model is spread over several devices"
        return ONE_BY_ONE if self._rules.has_own else forward.why_not(self.model)

    def _generate(self, prompts: Sequence[Prompt], options: BatchOptions) -> BatchOutput:
        started = time.perf_counter()
        self._reset_peak_memory()
        tokens, unfit = self.tokenise(prompts)
        records: dict[int, OutputRecord] = {at: self.refused(prompts[at], problem) for at, problem in unfit.items()}
        if unfit:
            options.on_records(list(records.values()))
        figures = Figures()
        if options.measure and self._workspace is not None:
            # A sweep's trials have the same prompts again and again: each is to pay for its own.
            self._workspace.forget_prefixes()
            self._before = []
        noise = None
        if self.generation.do_sample:
            indexes = {at: prompt.index for at, prompt in enumerate(prompts)}
            noise = BatchNoise(self._config.seed or 0, indexes, self.device)

        def ended(answers: dict[int, Answer]) -> None:
            new = {at: self.answered(prompts[at], len(tokens[at]), answer) for at, answer in answers.items()}
            records.update(new)
            options.on_records(list(new.values()))

        try:
            self._generate_parts(tokens, noise, options, ended, figures)
        except CaptureError as error:
            if error.figures is not None:
                figures.add(error.figures)
            errors.forget_frames(error)
            self._captures = False
            self._notes.append(f"{NOT_CAPTURED}: {error}")
            self.close()
        if left := {at: tokens[at] for at in tokens if at not in records}:
            memory.free_memory(self.device)
            self._generate_parts(left, noise, options, ended, figures)
        prompt_tokens = sum(len(ids) for ids in tokens.values())
        output_tokens = sum(record.output_tokens for record in records.values())
        slots = figures.prompt_slots + figures.row_steps
        # What is begun a second time, as steps could not be captured, shares its prefix twice.
        shared = min(figures.shared, prompt_tokens)
        result = BatchResult(
            rows=len(tokens),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            slots=slots,
            padded_slots=slots + shared - prompt_tokens - output_tokens,
            shared_tokens=shared,
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
        noise: BatchNoise | None,
        options: BatchOptions,
        on_answers: Callable[[dict[int, Answer]], None],
        figures: Figures,
    ) -> None:
        """Answer prompts, token ids by position, each with those that it goes together with."""
        new_tokens = options.max_new_tokens or self.generation.max_new_tokens
        for part in self._parts({at: len(ids) for at, ids in tokens.items()}, new_tokens):
            self._generate_part({at: tokens[at] for at in part}, noise, options, on_answers, figures)

    def _generate_part(
        self,
        tokens: dict[int, list[int]],
        noise: BatchNoise | None,
        options: BatchOptions,
        on_answers: Callable[[dict[int, Answer]], None],
        figures: Figures,
    ) -> None:
        """Answer prompts, token ids by position, that go together; `on_answers` gets the answers as they come."""
        new_tokens = options.max_new_tokens or self.generation.max_new_tokens
        part = Part(tokens, self._groups_of(tokens), new_tokens)
        if self._own_state is not None:
            self._own_state.restore()
        figures.add(self._run(part, noise, options, on_answers))

    def _groups_of(self, tokens: dict[int, list[int]]) -> list[Group]:
        """The groups that prompts, token ids by position, are prefilled in; each may have a prefix of its own."""
        shared: Shared = [((), list(tokens))]
        if self._workspace is not None:
            known = self._workspace.prefixes
            shared = shared_prefixes(tokens, self._group_slots, known, self._before)
            self._before = next(iter(tokens.values()))
        made = []
        for prefix, ats in shared:
            rests = {at: len(tokens[at]) - len(prefix) for at in ats}
            if self._workspace is not None and self._workspace.ragged:
                passes = in_passes(rests, pass_tokens(self.device.type))
                made += [Group(group, max(rests[at] for at in group), prefix, ragged=True) for group in passes]
                continue
            made += [Group(group, self._width([rests[at] for at in group]), prefix) for group in self._groups(rests)]
        self._tell_of_prefixes(made)
        return made

    def _tell_of_prefixes(self, groups: Sequence[Group]) -> None:
        longest = max(len(group.prefix) for group in groups)
        if longest and not self._told_of_prefixes:
            self._told_of_prefixes = True
            self._notes.append(f"prompts begin with the same {longest:,} tokens: each rank prefills them once")

    def _run(self, part: Part, noise: BatchNoise | None, options: BatchOptions, on_answers: OnAnswers) -> Figures:
        rules = self._rules.of_batch(part.tokens, part.new_tokens)
        check = LogitCheck(
            sampled=bool(self.generation.do_sample),
            infinite_is_replaced=bool(self.generation.remove_invalid_values),
        )
        clock: BatchClock

        def ended(answers: dict[int, Answer]) -> None:
            with clock.handing_over():
                on_answers(answers)

        if self._workspace is None:
            clock = watch = StepWatch(
                part.width,
                self.eos_tokens,
                self.device,
                check,
                on_step=options.on_step,
                cancelled=options.cancelled,
                synchronise=self._synchronise,
                measure=options.measure,
            )
            way = ByGenerate(self.model, self._experts, self._bare, self.eos_tokens, watch, self._leaving)
            return way.run(part, rules, noise, ended)
        clock = BatchClock(
            on_step=options.on_step,
            cancelled=options.cancelled,
            synchronise=self._synchronise,
            measure=options.measure,
        )
        choice = TokenChoice(check, rules, part.width, self.eos_tokens, self.device, noise, may_capture=self._captures)
        figures = loop.run(self._workspace, part, choice, clock, self.model.dtype, ended)
        if self._captures and not self._told_of_graphs and (len(self._workspace.graphs) or not choice.captured):
            self._told_of_graphs = True
            self._notes.append(CAPTURED if choice.captured else f"{NOT_CAPTURED}: {BY_TEXT}")
        return figures

    def _closes_after(self, error: BaseException) -> bool:
        # Out of memory, above all: the next try is to have all there is.
        return not isinstance(error, Cancelled)

    def close(self) -> None:
        """Free the decode loop's workspace: nothing else is kept between batches."""
        if self._workspace is not None:
            self._workspace.close()

    def _width(self, lengths: Collection[int]) -> int:
        """The width that prompts of these lengths are padded to together.

        Where all are equally long there is no padding, and so no attention mask, which would keep torch from its
        fastest attention (flash takes none).
        """
        if len(set(lengths)) == 1:
            return next(iter(lengths))
        return self._rounded(max(lengths))

    def _rounded(self, length: int) -> int:
        return -(-length // PAD_TO_MULTIPLE) * PAD_TO_MULTIPLE

    def _groups(self, lengths: dict[int, int]) -> list[list[int]]:
        """Which prompts are prefilled together, by position."""
        if not self._may_join:
            return [list(lengths)]
        return group_by_width({at: self._rounded(length) for at, length in lengths.items()}, self._group_slots)

    def _leaving(self, rows: int) -> int | None:
        """How many of `rows` must have ended before they leave; None where they stay to the end."""
        if self.why_rows_stay is not None or not (self.eos_tokens or self._rules.ends_rows):
            return None
        return leaving(self.device.type, rows)
