"""What a model's logits are when it is told what to say: a few rows, prefilled and continued by given tokens.

Two ways to compute the same rows can so be compared step by step, whatever their roundings make of a choice between two
tokens that are almost equally likely. Knows transformers' `generate`; the model's own generation config plays no part.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from rankdeck.runner.engine.generation import vocabulary
from rankdeck.runner.engine.generation.own_state import OwnState
from rankdeck.runner.engine.generation.settings import nothing_to_fill_in
from rankdeck.runner.engine.private_names import CACHE
from rankdeck.runner.engine.trials.likeness import Likeness, likeness

TEXTS = (
    "The quick brown fox jumps over the lazy dog. Meanwhile, seven wizards count 0123456789 boxing gloves: why not?",
    "Pack my box with five dozen liquor jugs; then walk home along the river, past 31 old mills and a church in ruins.",
)
"""Ordinary text: special tokens may stand for pictures, or mean something to the model."""

ALONE_LENGTHS, ALONE_STEPS = (5, 9, 2), 4


@dataclass(frozen=True)
class Told:
    """The logits of each step, float32 [steps, rows, vocabulary], and what is needed to go on from there.

    `left_state` is whether the model kept something of it in its modules, which is as before.
    """

    logits: torch.Tensor
    sequences: torch.Tensor
    mask: torch.Tensor
    cache: Any
    left_state: bool


def tokens(tokenizer: Any, count: int, known: int | None, text: str = TEXTS[0]) -> list[int]:
    """`count` ids of ordinary text that are below `known`; a tokenizer that makes none of it gets the first ids."""
    found: list[int] = []
    with contextlib.suppress(Exception):  # any tokenizer at all: it is asked for a text that nobody wants answered
        found = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    special = set(getattr(tokenizer, "all_special_ids", ()))
    usable = [token for token in found if token not in special and 0 <= token < (known or token + 1)]
    usable = usable or list(range(min(known or count, 16)))
    return (usable * (count // len(usable) + 1))[:count]


def padded(rows: Sequence[Sequence[int]], pad: int, width: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of these rows, padded on the left to `width` at least; on the host."""
    width = max(width, *(len(row) for row in rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def told(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    said: Sequence[Sequence[int]],
    pad: int,
    cache: Any = None,
) -> Told:
    """The logits of these rows, [rows, width], as each goes on with the tokens in `said`, [rows][steps]."""
    dictation = _Dictation(said, ids.shape[1])
    more = {} if cache is None else {CACHE: cache}
    output, left = _generated(model, ids, mask, pad, len(said[0]), [dictation], more)
    mask = torch.cat([mask, mask.new_ones(len(mask), len(said[0]))], dim=1)
    return Told(_stacked(output.logits), output.sequences, mask, getattr(output, CACHE, None), left)


def _generated(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, pad: int, steps: int, processors: list[Any], more: dict[str, Any]
) -> tuple[Any, bool]:
    """What `generate` returns, and whether the model kept something of it in its modules, where it is no longer."""
    generation = transformers.GenerationConfig(
        max_new_tokens=steps, do_sample=False, pad_token_id=pad, return_dict_in_generate=True, output_logits=True,
        disable_compile=True,  # which `generate` does by itself on a GPU, where the cache is static
    )  # fmt: skip
    own = OwnState(model)
    with torch.inference_mode(), nothing_to_fill_in(model):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=generation,
            logits_processor=transformers.LogitsProcessorList(processors),
            **more,
        )
    return output, own.restore()


def _stacked(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([step.float() for step in logits])


@dataclass(frozen=True)
class Alone:
    """A prompt, the tokens that it gets alone, the likeliest, and the logits of each step, [steps, vocabulary]."""

    prompt: list[int]
    tokens: list[int]
    logits: torch.Tensor

    def agrees(
        self, tokens: Sequence[int], log_probabilities: Sequence[float], processors: Sequence[Any], likeness: Likeness
    ) -> bool:
        """Whether these tokens have these log-probabilities after this prompt, as far as they are the same tokens.

        `processors` are what the probabilities were made with.
        """
        for step, (token, found) in enumerate(zip(tokens, log_probabilities, strict=True)):
            scores = self.logits[step : step + 1]
            for processor in processors:
                scores = processor(None, scores)
            difference = abs(scores.log_softmax(dim=-1)[0, token].item() - found)
            if not difference <= likeness.log_tolerance(scores[0]):
                return False
            if token != self.tokens[step]:
                break
        return True


def alone(model: Any, tokenizer: Any, pad: int, device: torch.device) -> tuple[list[Alone], Likeness]:
    """A few short prompts, what each gets alone, and how far from that the same answers may be."""
    ids = tokens(tokenizer, sum(ALONE_LENGTHS), vocabulary.known_ids(model))
    found = []
    for length in ALONE_LENGTHS:
        prompt = [ids.pop() for _ in range(length)]
        row = torch.tensor([prompt], device=device)
        output, _ = _generated(model, row, torch.ones_like(row), pad, ALONE_STEPS, [], {})
        said = output.sequences[0, length:].tolist()
        found.append(Alone(prompt, said, _stacked(output.logits)[:, 0]))

    def again() -> torch.Tensor:
        row = torch.tensor([found[0].prompt], device=device)
        return told(model, row, torch.ones_like(row), [found[0].tokens], pad).logits[:, 0]

    return found, likeness(model, again, found[0].logits)


class _Dictation(transformers.LogitsProcessor):
    """Makes the tokens in `said` the likeliest."""

    def __init__(self, said: Sequence[Sequence[int]], width: int) -> None:
        self._said, self._width = torch.tensor(said), width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self._width
        now = self._said[:, step].to(scores.device)
        return torch.zeros_like(scores).scatter(1, now[:, None], 1.0)
