"""Chooses the engine for a loaded model: the one asked for, or the one that measured faster.

Knows the engines that generate with a model loaded here, not vLLM, which loads its own. `auto` goes by earlier runs,
whose verdict comes as a hint, else by the kind of device. Where the continuous engine does not support the model or the
settings, the static one takes its place, with the reason in one line.
"""

from rankdeck.runner.engine.base import Engine
from rankdeck.runner.engine.continuous import ContinuousEngine, Unsupported
from rankdeck.runner.engine.loading import Loaded
from rankdeck.runner.engine.memory import free_memory
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.engines import EngineHint

AUTO = {
    "cpu": "faster on a CPU: 2.1 times the continuous one with prompts of like length, 1.4 times with unlike ones "
    "(135 M parameters, 2 cores)"
}
"""Why `auto` takes the static engine where no earlier runs tell, by kind of device: what
`tests.benchmarks.generate_batch` measured there.

With case a (100 short prompts, 50 or 100 new tokens) it is the median of five pairs of runs, 1.3 to 3.6 on a busy
machine; with case b (chats and answers of very unlike length) it is one pair.
"""

AUTO_ELSEWHERE = (
    "no engine was measured on this kind of device yet; run jobs like this with each, and auto will take the fastest"
)
"""Of unlike lengths and with flash attention the continuous one may well be faster there."""


def choose(
    config: RunConfig, loaded: Loaded, prompts: int | None = None, hint: EngineHint | None = None
) -> tuple[Engine, str]:
    """The engine of a run of `prompts` prompts (None: unknown), warmed up, and why it is this one ("" if it is the one
    asked for). `hint` is what `auto` goes by, if earlier runs tell."""
    parts = loaded.model, loaded.tokenizer, config, loaded.device
    measured = hint if config.engine == "auto" and hint is not None else EngineHint()
    why = ""
    if "continuous" in (config.engine, measured.engine):
        continuous = ContinuousEngine(*parts, prompts)
        continuous.add_notes(loaded.notes)
        try:
            continuous.warm_up()
            return continuous, measured.why
        except Unsupported as error:
            why = f"continuous batching cannot be used here: {error}"
            why += f"; tried because it had {measured.why}" if measured.why else ""
        free_memory(loaded.device)
    elif config.engine == "auto":
        why = measured.why or AUTO.get(loaded.device.type, AUTO_ELSEWHERE)
    static = StaticEngine(*parts)
    static.add_notes(loaded.notes)
    static.findings = loaded.findings
    static.warm_up()
    if static.why_rows_stay:
        why = "; ".join(filter(None, (why, f"rows that have ended stay in their batch: {static.why_rows_stay}")))
    return static, why
