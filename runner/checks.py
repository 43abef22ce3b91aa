"""What a run may be refused for before anything of it is made: settings, files, devices, models, memory.

Imports no torch, so that bad input is refused without delay. Only looks; starts nothing and writes nothing.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from rankdeck.runner import run_directory
from rankdeck.runner.inputs import memory_estimate, model_config, model_shape, models, paths, quantization
from rankdeck.runner.inputs.memory_estimate import MemoryEstimate
from rankdeck.runner.machine import examine, placement, processes, telemetry, vllm_here
from rankdeck.runner.machine.facts import Machine
from rankdeck.runner.protocol import config as settings
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.runner.run_directory.places import runtime_directory


class InputError(Exception):
    """The run cannot start with these settings; each problem says what, where and what to do."""

    def __init__(self, problems: Sequence[Problem | str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, problems)))


def default_ranks(device: str = "auto", ranks_per_gpu: int | None = None, gpus_per_rank: int = 1) -> int:
    """As many ranks as the visible GPUs take, or one GPU if they cannot be counted; on a CPU two at most."""
    gpus = 0 if device == "cpu" else telemetry.count_visible_gpus(os.environ)
    if not gpus and uncounted_gpus(device) is not None:
        gpus = 1  # at least, if there is any
    if not gpus:
        return min(2, processes.usable_cores())
    return max(1, min(settings.MAX_RANKS, placement.most_ranks(gpus, ranks_per_gpu, gpus_per_rank)))


def default_device() -> Literal["cuda", "cpu"]:
    """What `auto` means on this machine."""
    return "cuda" if telemetry.count_visible_gpus(os.environ) else "cpu"


def uncounted_gpus(device: str) -> str | None:
    """What to say where GPUs are asked for that nothing here can count: the ranks decide. None if they are counted."""
    if device != "cuda" or not telemetry.gpus_are_uncounted():
        return None
    return "NVML is missing (libnvidia-ml.so.1 cannot be loaded): GPUs are not counted, and have no figures"


def check(config: RunConfig, *, force: bool = False) -> list[Problem]:
    """All problems with `config` that settings, files and devices show without loading anything."""
    problems = check_but_files_of_model(config, force=force)
    if not any(problem.setting == "model" for problem in problems):
        problems.extend(Problem("model", said) for said in models.why_unusable(with_whole_paths(config)))
    return problems


def check_but_files_of_model(config: RunConfig, *, force: bool) -> list[Problem]:
    """What `check` finds, without a look at the files of the model."""
    config = with_whole_paths(config)
    problems = settings.check(config)
    if said := paths.why_unrecordable(config.model) or models.check_form(config.model):
        problems.append(Problem("model", said))
    problems.extend(check_gpus(config))
    problems.extend(check_vllm(config))
    problems.extend(check_quantization(config))
    problems.extend(check_length(config))
    if config.output is not None and (said := _why_no_output(config.output, config.prompts, force=force)):
        problems.append(Problem("output", said))
    if said := paths.why_unreadable(config.prompts, config.column):
        problems.append(Problem("prompts", said))
    return problems


OTHER_FORMATS = (".csv", ".tsv", ".parquet", ".xlsx", ".arrow", ".gz", ".zip")
"""Names that would say of the outputs that they are something else."""


def _why_no_output(output: str, prompts: str, *, force: bool) -> str | None:
    if output.endswith("/"):
        return f"{output} is a directory; name a file"
    if output == "-":
        return f"`-` is not a file; {run_directory.OUTPUTS_FILE} in the run's directory has the outputs in any case"
    if Path(output).suffix.lower() in OTHER_FORMATS:
        return f"{output}: outputs are written as JSON Lines whatever the name; use one that ends in .jsonl"
    if run_directory.belongs_to_a_run(Path(output)):
        return f"{output} is a file of another run; name another file"
    return paths.why_same(output, prompts) or paths.why_unwritable(Path(output), force=force)


def check_gpus(config: RunConfig) -> list[Problem]:
    """Problems with the device and with how ranks are placed on the GPUs that can be seen."""
    if config.device != "cuda" and config.ranks_per_gpu is None and config.gpus_per_rank == 1:
        return []  # GPUs do not matter here, and counting them takes a moment
    gpus = 0 if config.device == "cpu" else telemetry.count_visible_gpus(os.environ)
    if config.device == "cuda" and not gpus:
        return [] if uncounted_gpus(config.device) is not None else [no_gpu()]
    mig = config.gpus_per_rank > 1 and any(gpu.is_mig for gpu in telemetry.visible_gpus(os.environ))
    return placement.check(config, gpus, mig=mig)


def check_vllm(config: RunConfig) -> list[Problem]:
    """Why this run cannot have vLLM, if that is what it asks for."""
    if config.engine != "vllm":
        return []
    return vllm_here.problems(config, default_device() if config.device == "auto" else config.device)


def no_gpu() -> Problem:
    """What to say where GPUs are asked for and there is none."""
    why = telemetry.why_no_gpu(os.environ)
    return Problem("device", f"no NVIDIA GPU can be seen here{f' ({why})' if why else ''}; use --device cpu")


def memory_settings(config: RunConfig) -> tuple[object, ...]:
    """The settings on which it depends whether a run's ranks and their models fit in memory at all."""
    names = ("ranks", "device", "dtype", "quantization", "ranks_per_gpu", "gpus_per_rank", "gpu_memory_share")
    return *(getattr(config, name) for name in names), config.engine == "vllm"


def memory(config: RunConfig) -> tuple[str | None, Problem | None]:
    """Why a run will hardly fit in memory, and why it cannot, by estimate; each None if it may."""
    # A hub model not fetched yet may be any size. Later the ranks themselves take memory: this is the time to look.
    machine = examine.machine()
    found = estimate_memory(config, machine)
    if isinstance(found, str):
        return None, memory_estimate.refusal_of_ranks(config.ranks, machine.free, machine.whole)
    return memory_estimate.doubt(found), found.refusal


def estimate_memory(config: RunConfig, machine: Machine) -> MemoryEstimate | str:
    """The memory that a run of these settings needs and `machine` has, or why that is not known."""
    try:
        shape = model_shape.shape_of(config.model)
    except model_shape.Unknown as error:
        return str(error)
    sizes = model_shape.sizes_of(config.prompts, config.limit)
    return memory_estimate.estimate(shape, config, sizes, machine.free, machine.whole)


def check_quantization(config: RunConfig) -> list[Problem]:
    """Check a model in a folder; a hub model is checked by the supervisor, before any rank starts."""
    known = quantization.read_model_config(config.model) if config.model != "demo" else {}
    found = quantization.check(config.quantization, known, by_vllm=config.engine == "vllm")
    return [*found, *quantization.check_attention(config.attention)]


def check_length(config: RunConfig) -> list[Problem]:
    """Whether a model in a folder has room for such answers at all; each prompt is measured by the ranks."""
    context = model_config.context_in(quantization.read_model_config(config.model)) if config.model != "demo" else None
    if context is None or config.new_tokens < context:
        return []
    said = f"{config.new_tokens:,} leaves no room for a prompt: the model has positions for {context:,} tokens"
    return [Problem("max_new_tokens", said)]


def warnings(config: RunConfig, prompt_count: int) -> list[str]:
    """What will work, but is probably not what was meant."""
    said = []
    if config.ranks > prompt_count:
        idle = config.ranks - prompt_count
        said.append(f"{_counted(prompt_count, 'prompt')} for {config.ranks} ranks: {idle} will have no work")
    if config.device == "cuda":
        gpus = telemetry.count_visible_gpus(os.environ)
        if not gpus and (uncounted := uncounted_gpus(config.device)) is not None:
            said.append(uncounted)
        elif config.ranks > gpus and config.ranks_per_gpu is None:
            said.append(f"{config.ranks} ranks on {_counted(gpus, 'GPU')}: several ranks share a GPU and its memory")
    elif config.ranks > (cores := processes.usable_cores()):
        said.append(f"{config.ranks} ranks on {_counted(cores, 'core')}: ranks share cores, which is slower")
    return said


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def with_whole_paths(config: RunConfig) -> RunConfig:
    """`config` with `~` and `~user` in its paths expanded, and a model in a folder by its whole path.

    A relative one means another folder, or a hub model, when the run is resumed from elsewhere. The home of an unknown
    user stays as it is, and `check` refuses it.
    """

    def expanded(path: str) -> str:
        try:
            return str(Path(path).expanduser()) if path.startswith("~") else path
        except RuntimeError:
            return path

    output = expanded(config.output) if config.output is not None else None
    model = config.model if config.model == "demo" else expanded(config.model)
    with contextlib.suppress(OSError, ValueError):
        if model != "demo" and model.strip() and Path(model).exists():
            model = str(Path(model).absolute())
    return msgspec.structs.replace(config, prompts=expanded(config.prompts), output=output, model=model)


def check_sockets() -> None:
    """Raises InputError if a supervisor could not listen, before anything of its run is made or changed."""
    try:
        runtime_directory()
    except run_directory.RunFileError as error:
        raise InputError([str(error)]) from None
