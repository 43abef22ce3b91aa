"""Finds out whether a model gives its own answers over a static cache, which compiled steps need.

Such a cache is longer than the text. A model that cuts its masks by the cache's length then looks at the wrong places
(GPT-Neo's local attention), and others cannot do with the mask that it brings (Falcon with ALiBi). Nothing is compiled
here: what the compiler makes of a model shows only in the batch that waits for it. Knows the trial of a model; no runs.
"""

from typing import Any

import torch
import transformers

from rankdeck.runner.engine import errors, memory
from rankdeck.runner.engine.generation import vocabulary
from rankdeck.runner.engine.trials import exactly, told
from rankdeck.runner.engine.trials.likeness import EXACT_TYPES, likeness

SLOTS = 1024
"""Tokens that the cache has room for, if the model's context has: a shorter one may fit a window and so hide a fault.
For the rows here that is 1 GB with a model of 70 B parameters (320 kB a token)."""

LENGTHS = (4, 12, 4)
"""Short rows are changed most by padding. In the half types most of them have to be the same: two."""

WIDTH, STEPS = 16, 3
"""What the rows are padded to, and how many tokens they go on with: the first after the prefill, two after steps."""

OTHER = "it needs a static cache, and with one this model gives other answers"


def why_not(model: Any, tokenizer: Any, pad: int, device: torch.device) -> str | None:
    """Why the steps of this model are not to be compiled; None if a static cache gives what each row gets alone.

    As in the rehearsal of rows, a fault in the half types is one only if it shows in two texts. Too little memory is a
    reason like any other: a batch would take more.
    """
    texts = told.TEXTS[:1] if model.dtype in EXACT_TYPES else told.TEXTS
    try:
        if not any(_same(model, tokenizer, pad, device, text) for text in texts):
            return OTHER
        exact = exactly.tried(model, device, lambda: _same(model, tokenizer, pad, device, texts[0]))
        return OTHER if exact is False else None
    except Exception as error:
        said = errors.in_one_line(error)
        errors.forget_frames(error)
        if errors.is_out_of_memory(error):
            why = f"it needs a static cache, and there is too little memory to try one ({said})"
        else:
            why = f"it needs a static cache, and this model does not work with one ({said})"
    finally:
        memory.free_memory(device)
    return why


def _same(model: Any, tokenizer: Any, pad: int, device: torch.device, text: str) -> bool:
    """Whether padded rows of this text get the logits of each alone, over a new cache and again once it is reset."""
    slots = min(SLOTS, vocabulary.context_tokens(model.config) or SLOTS)
    width = max(1, min(WIDTH, slots - STEPS))
    lengths = [min(length, width) for length in LENGTHS]
    ids = told.tokens(tokenizer, sum(lengths) + len(lengths) * STEPS, vocabulary.known_ids(model), text)
    rows = [[ids.pop() for _ in range(length)] for length in lengths]
    said = [[ids.pop() for _ in range(STEPS)] for _ in rows]

    def logits(which: list[int], width: int = 0, cache: Any = None) -> torch.Tensor:
        given, mask = told.padded([rows[row] for row in which], pad, width)
        return told.told(model, given.to(device), mask.to(device), [said[row] for row in which], pad, cache).logits

    every = list(range(len(rows)))
    alone = torch.cat([logits([row]) for row in every], dim=1)
    alike = likeness(model, lambda: logits([1]), alone[:, [1]])  # the longest row
    with torch.inference_mode():
        cache = transformers.StaticCache(config=model.config, max_cache_len=slots)
        # The other way round first: what a reset leaves of one row is then another row's.
        if not alike.agree(logits(every[::-1], width, cache), alone[:, every[::-1]]):
            return False
        cache.reset()
        return alike.agree(logits(every, width, cache), alone)
