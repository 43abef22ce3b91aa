"""Chooses the engine for a loaded model: the one asked for, or the one that measured faster.

Knows both engines. `auto` depends on the kind of device. Where the continuous engine does not support the model or the
settings, the static one takes its place, with the reason in one line.
"""

from rankdeck.runner.engine.base import Engine
from rankdeck.runner.engine.continuous import ContinuousEngine, Unsupported
from rankdeck.runner.engine.loading import Loaded
from rankdeck.runner.engine.memory import free_memory
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.protocol.config import RunConfig

AUTO = {"cpu": "faster on a CPU: 1.5 times the continuous one at 50 rows (135 M parameters, 2 cores)"}
"""Why `auto` takes the static engine, by kind of device."""

AUTO_ELSEWHERE = "the continuous one was not measured on this device yet; --engine continuous takes it"


def choose(config: RunConfig, loaded: Loaded) -> tuple[Engine, str]:
    """The engine of a run, warmed up, and why it is this one ("" if it is the one asked for)."""
    parts = loaded.model, loaded.tokenizer, config, loaded.device
    why = ""
    if config.engine == "continuous":
        continuous = ContinuousEngine(*parts)
        continuous.add_notes(loaded.notes)
        try:
            continuous.warm_up()
            return continuous, ""
        except Unsupported as error:
            why = f"continuous batching cannot be used here: {error}"
        free_memory(loaded.device)
    elif config.engine == "auto":
        why = AUTO.get(loaded.device.type, AUTO_ELSEWHERE)
    static = StaticEngine(*parts)
    static.add_notes(loaded.notes)
    static.warm_up()
    if static.why_rows_stay:
        why = "; ".join(filter(None, (why, f"rows that have ended stay in their batch: {static.why_rows_stay}")))
    return static, why
