"""What a generation config does to logits and where it ends a row, as for each row's prompt alone.

Left padding is not text, yet `generate` counts and compares it: penalties, shortest lengths, sequences of tokens. So it
is given none of these settings. It prepares its logits processors for a prompt of each length instead, unpadded, and
they are applied here to the rows of that length, without their padding. Those that look at nothing but logits, or at
which tokens there are, work on all rows at once; those that remember something, one row at a time. A processor that is
not known is taken for one of the last.

Knows transformers' logits processors and stopping criteria; decodes nothing.
"""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers

from rankdeck.runner.engine.generation.settings import bare, nothing_to_fill_in

OF_LOGITS = frozenset(
    f"{name}LogitsWarper" for name in ("Temperature", "TopK", "TopP", "TopH", "MinP", "Typical", "Epsilon", "Eta")
) | {"InfNanRemoveLogitsProcessor", "LogitNormalization", "SuppressTokensLogitsProcessor"}
"""Processors that look at a row's logits alone."""

OF_TOKENS = frozenset({"RepetitionPenaltyLogitsProcessor"})
"""Those that ask which tokens a row has, however often: padding may be any token of the row."""

OF_LENGTH = frozenset(
    f"{name}LogitsProcessor"
    for name in (
        "MinLength", "MinNewTokensLength", "NoRepeatNGram", "SequenceBias", "NoBadWords", "ForcedBOSToken",
        "ForcedEOSToken", "SuppressTokensAtBegin",
    )
) | {"ExponentialDecayLengthPenalty"}  # fmt: skip
"""Those that look at a row's tokens in their order, or count them, and remember nothing from one row to another."""

OF_ENDING = ("MaxLengthCriteria", "MaxTimeCriteria", "EosTokenCriteria", "StopStringCriteria")
"""Stopping criteria that the engine sees to by itself, or that are set aside."""

NO_TOKEN = 2**31 - 1
"""Stands for padding where stop strings are looked for: beyond every vocabulary, it is part of none."""

OWN = "one row at a time: the model's own code acts on logits as it generates, and may count padding"

ONE_AT_A_TIME = "the model's generation config has settings that are applied one row at a time, which is slow"

Processors = Sequence[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]


@dataclass(frozen=True)
class Prepared:
    """What `generate` prepares for a call: its processors, other criteria than its usual, and its settings in full."""

    processors: list[Any]
    criteria: list[Any]
    settings: Any


def prepared(model: Any, generation: Any, ids: torch.Tensor) -> Prepared:
    """What `generate` would do to the logits of these prompts, [rows, tokens], unpadded. Nothing is generated."""

    def capture(
        _: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, generation_config: Any, **__: Any
    ) -> Prepared:
        criteria = [criterion for criterion in stopping_criteria if type(criterion).__name__ not in OF_ENDING]
        return Prepared(list(logits_processor), criteria, generation_config)

    asked = copy.copy(generation)
    asked.stop_strings = None  # looking through a vocabulary takes a while: once is enough
    with nothing_to_fill_in(model):
        found: Prepared = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=asked, custom_generate=capture
        )
    for processor in found.processors:
        if type(processor).__name__ in OF_TOKENS:
            processor.prompt_ignore_length = None  # the padding of these prompts: they have none
    return found


def _names(found: Prepared) -> list[str]:
    return [type(processor).__name__ for processor in found.processors]


def _tried(model: Any, generation: Any, device: torch.device) -> Prepared:
    """What `generate` prepares for a prompt of one token, once it was applied: only then are some settings read."""
    ids = torch.tensor([[generation.pad_token_id]], device=device)
    found = prepared(model, generation, ids)
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
    if vocabulary is not None:
        _applied(found.processors, ids, torch.zeros(1, vocabulary, device=device))
    return found


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        said = f"the model's generation config cannot be used: {error}; correct generation_config.json in its folder"
        raise ValueError(said) from error


class LogitRules:
    """The rules of a run. `of_batch` applies them to a batch.

    Raises:
        ValueError: the settings can be used with no prompt of this model.
    """

    def __init__(self, model: Any, tokenizer: Any, generation: Any, device: torch.device) -> None:
        self._model, self._generation, self._device = model, generation, device
        with _in_words():
            self._of_the_model = Counter(_names(_tried(model, bare(generation), device)))
            found = self._without_the_models(_tried(model, generation, device))
            strings = generation.stop_strings
            self.stop_strings = None if not strings else transformers.StopStringCriteria(tokenizer, strings)
        self.has_own = bool(self._of_the_model)
        """Whether the model's code applies processors of its own whenever it generates, whatever it is asked for."""

        self.processors = _names(found)
        names, known = set(self.processors), OF_LOGITS | OF_TOKENS
        self.whole = names <= known
        """Whether all rows can be done at once."""

        self.by_row = bool(found.criteria) or not names <= known | OF_LENGTH
        """Whether rows are done one at a time."""

        self.ends_rows = bool(generation.stop_strings or found.criteria)
        """Whether rows end by something else than an end-of-sequence token."""

    def of_batch(self, prompts: dict[int, list[int]], max_new_tokens: int) -> "BatchRules":
        """The rules for a batch of these prompts, by position."""
        generation = copy.copy(self._generation)
        generation.max_new_tokens = max_new_tokens
        return BatchRules(self, prompts, generation)

    def prepare(self, generation: Any, prompt: list[int]) -> Prepared:
        """The processors and criteria of one prompt, or of every one that is as long."""
        found = prepared(self._model, generation, torch.tensor([prompt], device=self._device))
        return self._without_the_models(found)

    def _without_the_models(self, found: Prepared) -> Prepared:
        """Without the processors that the model adds by itself, which would act twice."""
        left, kept = self._of_the_model.copy(), []
        for processor in found.processors:
            name = type(processor).__name__
            if left[name]:
                left[name] -= 1
            else:
                kept.append(processor)
        return replace(found, processors=kept)


@dataclass
class BatchRules:
    """The rules for the rows of a batch, by the positions of their prompts."""

    rules: LogitRules
    prompts: dict[int, list[int]]
    generation: Any
    _prepared: dict[Hashable, Prepared] = field(default_factory=dict)

    def for_rows(self, rows: Sequence[int], width: int) -> "RowRules | None":
        """The rules for a call of `generate` on these rows, with prompts padded to `width`; None if there are none."""
        if not self.rules.processors and not self.rules.by_row and self.rules.stop_strings is None:
            return None
        pads = [width - len(self.prompts[row]) for row in rows]
        parts: dict[Hashable, list[int]] = {}
        for place, row in enumerate(rows):
            parts.setdefault(self._part(row), []).append(place)
        shared = [(self._prepare(part, rows[places[0]]), places) for part, places in parts.items()]
        return RowRules(shared, pads, self.rules)

    def at_once(self) -> Processors | None:
        """The processors, for rows whose padding is made of their own tokens; None where they need a row's very text.

        These ask for no more than which tokens a row has, so they do all rows in one go, whatever their lengths.
        """
        if not self.rules.whole or self.rules.ends_rows or self.rules.by_row:
            return None
        return self._prepare(0, next(iter(self.prompts))).processors if self.rules.processors else []

    def _part(self, row: int) -> Hashable:
        """Rows with the same part are done together."""
        if self.rules.by_row:
            return row
        return 0 if self.rules.whole else len(self.prompts[row])

    def _prepare(self, part: Hashable, row: int) -> Prepared:
        if part not in self._prepared:
            self._prepared[part] = self.rules.prepare(self.generation, self.prompts[row])
        return self._prepared[part]


class RowRules(transformers.LogitsProcessor):
    """The rules for the rows of one call, by their places in it. `ended` says which rows a stop string has ended."""

    def __init__(self, parts: list[tuple[Prepared, list[int]]], pads: list[int], rules: LogitRules) -> None:
        self._parts, self._pads, self._rules = parts, pads, rules
        self._places: list[torch.Tensor] = []
        self._padding: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """[rows, width so far] and [rows, vocabulary] to [rows, vocabulary]."""
        if not self._rules.processors:
            return scores
        if self._rules.whole:
            ids = self._with_padding_as(input_ids, input_ids[:, -1:])
            return _applied(self._parts[0][0].processors, ids, scores)
        if len(self._parts) == 1:
            part, places = self._parts[0]
            return _applied(part.processors, input_ids[:, self._pads[places[0]] :], scores)
        done = scores.clone()
        for (part, places), index in zip(self._parts, self._indices(input_ids.device), strict=True):
            ids = input_ids[index, self._pads[places[0]] :]
            done[index] = _applied(part.processors, ids, scores[index])
        return done

    def ended(self, input_ids: torch.Tensor, scores: Any) -> torch.Tensor | None:
        """Which rows end with this token, [rows], besides those that end with an end-of-sequence token."""
        ended: torch.Tensor | None = None
        if self._rules.stop_strings is not None:
            ended = self._rules.stop_strings(self._with_padding_as(input_ids, NO_TOKEN), scores)
        if self._rules.by_row and any(part.criteria for part, _ in self._parts):
            ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device) if ended is None else ended
            for (part, places), index in zip(self._parts, self._indices(input_ids.device), strict=True):
                for criterion in part.criteria:
                    ended[index] |= criterion(input_ids[index, self._pads[places[0]] :], scores)
        return ended

    def _indices(self, device: torch.device) -> list[torch.Tensor]:
        if not self._places:
            self._places = [torch.tensor(places, device=device) for _, places in self._parts]
        return self._places

    def _with_padding_as(self, ids: torch.Tensor, token: torch.Tensor | int) -> torch.Tensor:
        """The rows with `token` where their padding is."""
        if not any(self._pads):
            return ids
        if self._padding is None:
            self._padding = torch.tensor(self._pads, device=ids.device)[:, None]  # [rows, 1]
        places = torch.arange(ids.shape[1], device=ids.device)
        return torch.where(places < self._padding, token, ids)


def _applied(processors: Processors, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    for processor in processors:
        scores = processor(ids, scores)
    return scores
