"""The model of a run, found before any rank starts: resolved, checked, and on its way into memory.

Knows which events report it. How a model is found and made is `runner.inputs.models`'s business.
"""

import asyncio
from pathlib import Path

from rankdeck.runner import protocol
from rankdeck.runner.inputs import models, quantization
from rankdeck.runner.inputs.demo_model import ModelError, Phase
from rankdeck.runner.inputs.read_ahead import read_ahead
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.supervisor.event_stream import EventStream


async def find_model(config: RunConfig, events: EventStream) -> str:
    """The folder or hub id to load, emitting progress while it is looked for or fetched.

    Raises:
        ModelError: there is no such model, or a package that it needs is missing.
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
    if not model.is_local:
        known = await asyncio.to_thread(quantization.hub_model_config, model.path_or_id)
        if problems := quantization.check(config.quantization, known):
            raise ModelError("; ".join(str(problem) for problem in problems))
    events.emit(protocol.ModelProgress(phase="found", label=model.label))
    if model.is_local:
        loop.run_in_executor(None, read_ahead, Path(model.path_or_id))
    return model.path_or_id
