"""How vLLM is started in a rank's own process: its arguments, what memory it takes, and which phase it is in.

Knows vLLM's EngineArgs. One process means that each step is taken when the rank asks for it; only a model that is
spread over several GPUs has worker processes, which end with the rank.
"""

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from rankdeck.runner.engine.paged.config import asked_for, cpu_cache_tokens
from rankdeck.runner.engine.vllm import names
from rankdeck.runner.inputs.memory_estimate import CONTINUOUS_SHARE, VLLM_CPU_BLOCK_TOKENS, VLLM_SHARE
from rankdeck.runner.protocol import RankPhaseName
from rankdeck.runner.protocol.config import RunConfig

OnPhase = Callable[[RankPhaseName], object]

USUAL_ROWS, LARGE_GPU_ROWS = 256, 1024
"""The most rows at once that vLLM takes by itself, on small and on large GPUs. It is told only if a run wants more."""

LARGE_GPU_BYTES = 70 * 2**30

USUAL_STEP_TOKENS = {"cpu": 4096}
USUAL_STEP_TOKENS_ELSEWHERE = 8192
"""Tokens that a step has by itself at least, by kind of device; a row takes at least one."""

FREE_SHARE = 0.97
"""Of what is free of a GPU, where others take part of it: vLLM refuses to begin where less is free than it is to take,
and a GPU's context and libraries come on top."""

QUANTIZATIONS = {"bnb-4bit": "bitsandbytes"}


def arguments(
    config: RunConfig,
    model_path: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    context_tokens: int | None,
    kv_bytes_per_token: int | None,
) -> dict[str, Any]:
    """The arguments of EngineArgs for a rank of this run."""
    found: dict[str, Any] = {
        "model": model_path,
        "dtype": str(dtype).removeprefix("torch."),
        "tensor_parallel_size": config.gpus_per_rank,
        "trust_remote_code": config.trust_remote_code,
        "seed": config.seed or 0,
        "max_model_len": -1,  # as long as the model and the memory have room for
        "skip_tokenizer_init": True,  # prompts and answers go to and fro as tokens
        "generation_config": "vllm",  # none: each row brings its own settings
        "use_tqdm_on_load": False,
        "disable_log_stats": False,  # they have how full the cache is
    }
    if config.quantization in QUANTIZATIONS:
        found["quantization"] = QUANTIZATIONS[config.quantization]
    free, total = torch.cuda.mem_get_info(device) if device.type != "cpu" else (0, 0)
    usual_rows = LARGE_GPU_ROWS if total >= LARGE_GPU_BYTES else USUAL_ROWS
    if (rows := asked_for(config)) > USUAL_ROWS:
        found["max_num_seqs"] = max(usual_rows, rows)
    if rows > USUAL_STEP_TOKENS.get(device.type, USUAL_STEP_TOKENS_ELSEWHERE):
        found["max_num_batched_tokens"] = rows
    if device.type != "cpu":
        # Of several GPUs only the first has a context here: asking the others would take half a gigabyte of each.
        known = (free, total) if config.gpus_per_rank == 1 else None
        return {**found, "gpu_memory_utilization": gpu_share(config.gpu_memory_share, known)}
    found["enforce_eager"] = True  # compiling takes half a minute, and gains nothing there (docs/benchmarks.md)
    if kv_bytes_per_token is None:
        cache = int(psutil.virtual_memory().available * CONTINUOUS_SHARE / config.ranks)
    else:
        cache = cpu_cache_tokens(config, context_tokens, kv_bytes_per_token, VLLM_CPU_BLOCK_TOKENS) * kv_bytes_per_token
    return {**found, "kv_cache_memory_bytes": cache}


def gpu_share(asked: float | None, room: tuple[int, int] | None) -> float:
    """The share of a GPU that a rank takes: as asked, else what is usual, or what is free if that is less.

    `room` are its free bytes and all there are, where known.
    """
    if asked is not None:
        return asked
    if room is None:
        return VLLM_SHARE
    free, total = room
    return int(100 * min(VLLM_SHARE, FREE_SHARE * free / total)) / 100


def opened(found: dict[str, Any], scratch: Path, on_phase: OnPhase) -> Any:
    """An LLMEngine with these arguments: loaded, with its cache, compiled and with its graphs where it has such.

    Its processes find each other by a file in `scratch`, a folder of this rank alone.

    Raises:
        Exception: whatever vLLM says.
    """
    usage = names.part("UsageContext").LLM_CLASS  # the bounds of batch inference, not those of a server
    engine_arguments = names.part("EngineArgs")(**found)
    with _phases_told(on_phase), _temporary_files_in(scratch), _our_words(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return names.part("LLMEngine").from_engine_args(engine_arguments, usage_context=usage)


@contextlib.contextmanager
def _our_words() -> Iterator[None]:
    """Say what vLLM's setting for its share of a GPU is called here, where it says that this is wrong."""
    try:
        yield
    except ValueError as error:
        if "gpu_memory_utilization" not in str(error) and "gpu-memory-utilization" not in str(error):
            raise
        raise RuntimeError(f"{error} (its gpu_memory_utilization is --gpu-memory-share here)") from error


@contextlib.contextmanager
def _temporary_files_in(scratch: Path) -> Iterator[None]:
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    scratch.mkdir(mode=0o700)
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)  # of this process, and of its workers
    try:
        yield
    finally:
        tempfile.tempdir = before[0]
        os.environ.pop("TMPDIR")
        if before[1] is not None:
            os.environ["TMPDIR"] = before[1]


@contextlib.contextmanager
def _phases_told(on_phase: OnPhase) -> Iterator[None]:
    """Tell when vLLM has loaded the weights and begins to compile, and when it begins to record graphs."""
    try:
        from vllm.v1.executor.abstract import Executor

        own = Executor.determine_available_memory, Executor.compile_or_warm_up_model
    except (ImportError, AttributeError):  # then all of it is loading
        yield
        return
    told: list[RankPhaseName] = []

    def tell(phase: RankPhaseName) -> None:
        if phase not in told:
            told.append(phase)
            on_phase(phase)

    def profile(executor: Any, *arguments: Any, **named: Any) -> Any:
        tell("warming up" if executor.vllm_config.model_config.enforce_eager else "compiling")
        return own[0](executor, *arguments, **named)

    def warm_up(executor: Any, *arguments: Any, **named: Any) -> Any:
        tell("warming up")
        return own[1](executor, *arguments, **named)

    Executor.determine_available_memory, Executor.compile_or_warm_up_model = profile, warm_up
    try:
        yield
    finally:
        Executor.determine_available_memory, Executor.compile_or_warm_up_model = own
