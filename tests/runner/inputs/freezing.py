"""Freezes a prompt file of given content, in the folder one is in, and gives the prompts or what is said of it."""

import io
from pathlib import Path
from typing import Any

import pytest

from rankdeck.runner.inputs.frozen_prompts import PromptError, PromptIndex, freeze
from rankdeck.runner.protocol import Prompt

FROZEN = Path("prompts.jsonl")


def freeze_here(
    source: str,
    content: bytes | str | None = None,
    *,
    column: str | None = None,
    limit: int | None = None,
    chat: bool = False,
    stdin: bytes | None = None,
) -> PromptIndex:
    if content is not None:
        Path(source).write_bytes(content if isinstance(content, bytes) else content.encode())
    piped = None if stdin is None else io.BytesIO(stdin)
    return freeze(source, FROZEN, column=column, limit=limit, chat=chat, stdin=piped)


def frozen(source: str, content: bytes | str | None = None, **options: Any) -> list[Prompt]:
    """The prompts of a file of this content, read back through the index."""
    index = freeze_here(source, content, **options)
    prompts = index.read(range(index.count))
    assert [prompt.index for prompt in prompts] == list(range(index.count))
    return prompts


def complaint(source: str, content: bytes | str | None = None, **options: Any) -> str:
    """What is said of a file that cannot be used."""
    FROZEN.unlink(missing_ok=True)
    with pytest.raises(PromptError) as caught:
        freeze_here(source, content, **options)
    assert not FROZEN.exists(), "a file with problems must leave nothing behind"
    assert not Path(f".{FROZEN}.partial").exists()
    return str(caught.value)


def remarks(source: str, content: bytes | str) -> list[str]:
    """What is said of a file that is used all the same."""
    return freeze_here(source, content).remarks


def texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts]
