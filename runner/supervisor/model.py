"""The model of a run, found before any rank starts: resolved, checked, and on its way into memory.

Knows which events report it. How a model is found and made is `runner.inputs.models`'s business.
"""

import asyncio
from pathlib import Path

from rankdeck.runner import protocol
from rankdeck.runner.inputs import models, quantization
from rankdeck.runner.inputs.checkpoint.examine import examine
from rankdeck.runner.inputs.demo_model import ModelError, Phase
from rankdeck.runner.inputs.frozen_prompts import PromptIndex
from rankdeck.runner.inputs.read_ahead import read_ahead
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.supervisor.event_stream import EventStream


async def find_model(config: RunConfig, events: EventStream, prompts: PromptIndex) -> str:
    """The folder or hub id to load, emitting progress while it is looked for or fetched.

    Raises:
        ModelError: there is no such model, its files are not right, or a package that it needs is missing.
    """
    loop = asyncio.get_running_loop()
    last: protocol.ModelProgress | None = None

    def on_progress(phase: Phase, done: int | None, total: int | None) -> None:
        nonlocal last
        progress = protocol.ModelProgress(phase=phase, done=done, total=total)
        if phase != "found" and progress != last:
            last = progress
            loop.call_soon_threadsafe(events.emit, progress)

    model = await asyncio.to_thread(models.resolve, config.model, on_progress)
    if config.model != "demo":
        for note in await asyncio.to_thread(_look_into, model, config, prompts.messages > 0):
            events.emit(protocol.LogLine(source="supervisor", text=note))
    events.emit(protocol.ModelProgress(phase="found", label=model.label))
    if model.is_local:
        loop.run_in_executor(None, read_ahead, Path(model.path_or_id))
    return model.path_or_id


def _look_into(model: models.ResolvedModel, config: RunConfig, chat: bool) -> list[str]:
    """Lines about the files of a model; of a hub model those beside its weights are fetched for it.

    `chat` is whether any prompt goes through its chat template.

    Raises:
        ModelError: they are not right; the text has all that is wrong with them.
    """
    folder = Path(model.path_or_id) if model.is_local else models.fetch_small_files(model.path_or_id)
    if folder is None:
        return []
    found = examine(folder, trust_remote_code=config.trust_remote_code, chat=chat, weights_may_come=not model.is_local)
    known = quantization.read_model_config(str(folder))
    packages = quantization.check(config.quantization, known, by_vllm=config.engine == "vllm")
    if problems := [*found.problems, *map(str, packages)]:
        raise ModelError("; ".join(problems))
    return list(found.notes)
