"""Start `accelerate launch`, read its output, and end all its processes.

Knows the command line, the ranks' environment, what torchrun's log lines mean, and how to end a process tree. Does not
know what the ranks do. The config file is written here, so that the user's own accelerate config cannot change a run.
"""

import asyncio
import contextlib
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import psutil

from rankdeck.runner import run_directory
from rankdeck.runner.machine import telemetry
from rankdeck.runner.machine.processes import die_with_parent, usable_cores

ACCELERATE_CONFIG = """\
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: '{distributed}'
downcast_bf16: 'no'
machine_rank: 0
main_training_function: main
mixed_precision: 'no'
num_machines: 1
num_processes: {ranks}
use_cpu: {use_cpu}
"""


LaunchCommand = Callable[[Path, int, str, Sequence[str]], list[str]]
"""From config file, number of ranks, module and its arguments to a command line."""

TERMINATE_SECONDS = 3.0


def accelerate_command(config_file: Path, ranks: int, module: str, arguments: Sequence[str]) -> list[str]:
    """The command line. `--multi_gpu` also starts gloo ranks on a CPU, but refuses a single process."""
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(config_file)),
        *("--num_machines", "1", "--num_processes", str(ranks)),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        # Port 0 takes any free one, so that several runs can go on at once.
        *(("--multi_gpu", "--main_process_port", "0") if ranks > 1 else ()),
        *("-m", module, *arguments),
    ]


def write_accelerate_config(path: Path, ranks: int, on_cpu: bool) -> None:
    """Write the config file for `accelerate_command`."""
    distributed = "NO" if ranks == 1 else "MULTI_CPU" if on_cpu else "MULTI_GPU"
    use_cpu = "true" if on_cpu else "false"
    content = ACCELERATE_CONFIG.format(distributed=distributed, ranks=ranks, use_cpu=use_cpu)
    run_directory.replace_file(path, content.encode())


ALLOCATOR_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Where torch's allocator reads its settings: torch before 2.9 only from the first, later ones from the first that
is set, even if it is empty."""

EXPANDABLE = "expandable_segments"


def with_expandable_segments(environ: Mapping[str, str]) -> dict[str, str]:
    """Allocator settings with expandable segments, to be added to `environ`; the user's own stay.

    Keys and values that grow by a token a step are new tensors at every step, a little larger each time. Without this
    none fits where the last one was, and the allocator reserves many times what is in use.
    """
    found = {name: environ[name] for name in ALLOCATOR_SETTINGS if name in environ}
    added = {}
    for name, settings in (found or dict.fromkeys(ALLOCATOR_SETTINGS, "")).items():
        entries = [entry.strip() for entry in settings.split(",") if entry.strip()]
        if not any(_decides_on_segments(entry) for entry in entries):
            added[name] = ",".join([*entries, f"{EXPANDABLE}:True"])
    return added


def _decides_on_segments(entry: str) -> bool:
    """Whether one of the user's allocator settings already decides for or against expandable segments."""
    name, _, value = (part.strip() for part in entry.partition(":"))
    if name == "backend":
        return value != "native"  # cudaMallocAsync has no segments
    # With a limit on splitting, torch can fail with expandable segments (pytorch issue 119452).
    return name in (EXPANDABLE, "max_split_size_mb")


def rank_environment(
    environ: Mapping[str, str], ranks: int, on_cpu: bool, cores: int, *, expandable_segments: bool
) -> dict[str, str]:
    """The ranks' environment: the user's without what would change a run, with the cores shared out evenly.

    With `expandable_segments` torch's allocator uses them on GPUs, unless the user's settings decide otherwise.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        kept.pop(name, None)
    threads = str(max(1, cores // ranks))
    kept |= {
        "RANKDECK_CORES": str(cores) if on_cpu else "",
        # Left unset, torchrun sets it to 1.
        "OMP_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": kept.get("TOKENIZERS_PARALLELISM", "false"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "PYTHONUNBUFFERED": "1",
        # A folder called rankdeck in the current directory must not be imported instead.
        "PYTHONSAFEPATH": "1",
    }
    if expandable_segments and not on_cpu:
        kept |= with_expandable_segments(kept)
    if on_cpu:
        kept["ACCELERATE_USE_CPU"] = "true"
        if "OMP_WAIT_POLICY" not in kept:
            # Waiting threads spin for a few microseconds, then sleep. By default they spin for milliseconds, and on
            # a busy machine they take the core from the thread they wait for.
            kept.setdefault("GOMP_SPINCOUNT", "1000")
    return kept


class AccelerateProcess:
    """One `accelerate launch` process and all its descendants."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._descendants: set[psutil.Process] = set()

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> "AccelerateProcess":
        """Start it in a new session; it dies with this process.

        Raises:
            OSError: the command cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(),
            limit=1024 * 1024,
        )
        return cls(process)

    async def lines(self) -> AsyncIterator[str]:
        """What the launcher prints, line by line, until it ends."""
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # longer than the limit: nobody would read it
                continue
            if not line:
                return
            yield line.decode("utf-8", "replace").rstrip()

    async def wait(self) -> int:
        """Wait for the launcher to end; returns its exit status."""
        return await self._process.wait()

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def end(self) -> None:
        """Terminate every process of the launch, kill those that stay, and wait until none is left."""
        self._collect()
        for polite in (True, False):
            for process in self._alive():
                with contextlib.suppress(psutil.NoSuchProcess, OSError):
                    if polite:
                        process.terminate()
                    else:
                        process.kill()
            deadline = asyncio.get_running_loop().time() + TERMINATE_SECONDS
            while self._alive() and asyncio.get_running_loop().time() < deadline:
                self._collect()
                await asyncio.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def remember(self, pid: int) -> None:
        """Add a process to the launch: `end` finds it even if its parents are gone."""
        with contextlib.suppress(psutil.Error, OSError):
            self._descendants.add(psutil.Process(pid))

    def _collect(self) -> None:
        with contextlib.suppress(psutil.Error, OSError):
            launcher = psutil.Process(self._process.pid)
            self._descendants |= {launcher, *launcher.children(recursive=True)}

    def _alive(self) -> list[psutil.Process]:
        return [process for process in self._descendants if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError):
        return False


async def launch_and_wait(ranks: int, on_cpu: bool, module: str) -> tuple[int, list[str]]:
    """Run `module` on every rank to its end. Returns the launcher's exit status and the lines it printed.

    Raises:
        OSError: the launcher cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="rankdeck-hello-") as folder:
        config_file = Path(folder) / "accelerate.yaml"
        write_accelerate_config(config_file, ranks, on_cpu)
        command = accelerate_command(config_file, ranks, module, [])
        environment = rank_environment(os.environ, ranks, on_cpu, usable_cores(), expandable_segments=False)
        if not on_cpu:
            environment |= telemetry.rank_variables(os.environ)
        process = await AccelerateProcess.start(command, environment)
        try:
            said = [line async for line in process.lines()]
            return await process.wait(), said
        finally:
            await process.end()


_ERROR_LINE = re.compile(r"^(?:\[rank\d+\]: ?)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b.*)")
_SIGNAL_LINE = re.compile(r"Signal (\d+) \((SIG[A-Z]+)\) received by PID (\d+)")
_NOISE = re.compile(
    r"^\s*($|[-=]{5,}|Traceback|File \"|\[W|warnings\.warn|Root Cause|Failures:|traceback :|error_file|"
    r"time +:|host +:|rank +:|exitcode +:|\[\d+\]:|.*the supervisor is gone|.*childFailedError)",
    re.IGNORECASE,
)
_TORCHRUN = re.compile(r"torch\.distributed\.elastic|ChildFailedError|^E\d{4} |^W\d{4} |CalledProcessError")


def cause_of(lines: Sequence[str]) -> str | None:
    """The last meaningful line of a log: the last error, else the last line that is no banner or stack trace."""
    meaningful = [line for line in lines if not _TORCHRUN.search(line)]
    for line in reversed(meaningful):
        if match := _ERROR_LINE.match(line.strip()):
            return match[1]
    for line in reversed(meaningful):
        if line.startswith("Fatal Python error"):
            return line.strip()
    for line in reversed(meaningful):
        if not _NOISE.match(line):
            return line.strip()
    return None


def killed_by(lines: Sequence[str], pid: int) -> str | None:
    """The name of the signal that ended process `pid`, as torchrun reports it."""
    for line in lines:
        match = _SIGNAL_LINE.search(line)
        if match and int(match[3]) == pid:
            return match[2]
    return None
