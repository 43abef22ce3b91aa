"""A tiny model's tokenizer, engines on it, and prompts, for the tests of engines. The model is a fixture."""

from types import MappingProxyType

import pytest
import torch
import transformers

from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.protocol import Prompt
from rankdeck.runner.protocol.config import RunConfig

EOS = 1
WAYS = ("loop", "generate")
"""How a batch may be run: by the decode loop, or by transformers' `generate`."""

BOTH_WAYS = pytest.mark.parametrize("way", WAYS)
"""What a test checks holds whichever `way` a batch is run."""


class ByteTokenizer:
    """One token per byte of UTF-8, after three special ones; enough of a tokenizer for the engine."""

    pad_token_id, eos_token_id, eos_token = 0, EOS, "<eos>"

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": ([2] if add_special_tokens else []) + [byte + 3 for byte in text.encode()]}

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        if messages[0]["role"] == "system":
            raise ValueError("system role not supported")
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)

    def decode(self, tokens, skip_special_tokens):
        assert skip_special_tokens
        return bytes(token - 3 for token in tokens if token >= 3).decode(errors="replace")


def make(model, own=MappingProxyType({}), kind=StaticEngine, *, way=None, **settings):
    """An engine on this model, whose generation config has its `own` settings.

    With a `way`, one of `WAYS`, it is warmed up, and its batches are run so; without, they are run by `generate`.
    """
    config = RunConfig(prompts="p", **{"max_new_tokens": 12, **decoding(way), **settings})
    # An engine lays its generation config over the model's; each test's engine starts from the model's own.
    model.generation_config = transformers.GenerationConfig(
        **{"eos_token_id": EOS, "pad_token_id": 0, "bos_token_id": 2, **own}
    )
    one = kind(model, ByteTokenizer(), config, torch.device("cpu"))
    if way is not None:
        one.warm_up()
        check_way(one, way)
    return one


def decoding(way):
    """The settings of a run whose batches go this way."""
    return {"decoding": "generate"} if way == "generate" else {}


def check_way(engine, way):
    """Its batches are run the way that a test is about."""
    assert (engine._workspace is not None) == (way == "loop"), engine.take_notes()


def side_by_side(engine):
    """The decode loop prefills prompts side by side, as with a model that computes no attention but its own."""
    if engine._workspace is not None:
        engine._workspace.ragged = False
    return engine


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(index=index, id=str(index), text=text) for index, text in enumerate(texts)]


TEXTS = ("a", "bb bb", "a much longer prompt than the others", "zz")


def ending_early(model, kind=StaticEngine, *, way=None, **settings):
    """An engine whose end-of-sequence token is one that this model writes: the most common one of its answers."""
    free = make(model, ignore_eos=True)
    rows = list(free.generate(prompts(*TEXTS)).records)
    assert {record.output_tokens for record in rows} == {12}
    assert {record.finish_reason for record in rows} == {"length"}
    common = max(range(259), key=lambda token: sum(chr(token - 3) in record.text[:8] for record in rows if token >= 3))
    return make(model, {"eos_token_id": common}, kind, way=way, **settings)
