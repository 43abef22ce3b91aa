"""The answers of rows, from their new tokens and their marks. Knows tokens and marks; knows no tensors of rows."""

from collections.abc import Sequence

import torch

from rankdeck.runner.engine.generation.marks import UNUSABLE, read, words
from rankdeck.runner.engine.rows import Answer, trim


def answers_of(
    rows: Sequence[list[int]], marks: Sequence[int], eos_tokens: frozenset[int], dtype: torch.dtype
) -> list[Answer]:
    """The answers so far, from all new tokens of each row and its mark; `dtype` is the model's."""
    answers = []
    for tokens, mark in zip(rows, marks, strict=True):
        step, kind = read(mark)
        answer = trim(tokens, eos_tokens, step)
        if step is not None and kind in UNUSABLE and len(answer.tokens) == step:
            answer = Answer([], "error", words(kind, step, dtype))
        answers.append(answer)
    return answers
