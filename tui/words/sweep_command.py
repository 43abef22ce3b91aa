"""The command that runs the prompts at a setting that a sweep measured. Pure."""

import shlex

from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.state import RunState
from rankdeck.runner.sweep.cells import Cell

_IF_CHANGED = (
    "max_new_tokens",
    "order",
    "device",
    "dtype",
    "engine",
    "attention",
    "decoding",
    "quantization",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "ranks_per_gpu",
    "gpus_per_rank",
    "gpu_memory_share",
)


_SWITCHES = ("chat", "trust_remote_code", "do_sample")


def best_command(state: RunState, cell: Cell) -> list[str]:
    """The command that runs all prompts at a cell's setting, in parts quoted for a shell that must not be split.

    It always asks for natural length, even after trials of fixed length, as its answers are meant to be read.
    """
    config = state.config
    if config is None:
        return []
    defaults = RunConfig(prompts="")
    parts = ["rankdeck run", shlex.quote(_prompts(state, config)), f"--model {shlex.quote(config.model)}"]
    parts += [
        f"{_flag(name)} {shlex.quote(str(value))}"
        for name in (*_IF_CHANGED, "limit", "column")
        if (value := getattr(config, name)) != getattr(defaults, name)
    ]
    parts += [_flag(name) for name in _SWITCHES if getattr(config, name)]
    return [*parts, f"--batch-size {cell.batch_size}", f"--ranks {cell.active_ranks}"]


def _prompts(state: RunState, config: RunConfig) -> str:
    # Of prompts from standard input only the run's own copy is left.
    return f"{state.directory}/prompts.jsonl" if config.prompts == "-" else config.prompts


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
