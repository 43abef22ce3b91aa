"""Examines this machine: GPUs, memory, packages, places on disk, the terminal. `runner.machine.doctor` judges.

Imports no torch: a separate process, with a time limit, asks torch about CUDA. Nothing raises: what cannot be found out
is None, or carries its reason.
"""

import asyncio
import contextlib
import importlib.util
import locale
import os
import platform
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec
import platformdirs
import psutil

from rankdeck.runner import run_directory
from rankdeck.runner.inputs import flash_packages, model_shape, vllm_package
from rankdeck.runner.machine import processes, telemetry, visible_gpus
from rankdeck.runner.machine.facts import Facts, Machine, Terminal, TorchFound, WritablePlace
from rankdeck.runner.machine.nvml import NvmlApi, NvmlFailure
from rankdeck.runner.machine.nvml_library import PynvmlApi
from rankdeck.runner.protocol import DeviceSample
from rankdeck.runner.run_directory import places
from rankdeck.runner.state import rank_gpus

PACKAGES = ("torch", "transformers", "accelerate", "nvidia-ml-py", "textual", "bitsandbytes", "torchao", "pyarrow")
TORCH_SECONDS = 90.0

ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "HF_HUB_OFFLINE",
    "TERM",
    "LANG",
    "LC_ALL",
    "TMUX",
    "STY",
    "ACCELERATE_CONFIG_FILE",
)
"""The environment variables that change a run or the dashboard."""

ASK_TORCH = """\
import json, torch
found = {"available": torch.cuda.is_available(), "cuda": torch.version.cuda}
found |= {"devices": [], "uuids": [], "capabilities": []}
if found["available"]:
    torch.cuda.init()  # before that, torch counts what NVML lists
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        found["devices"].append(device.name)
        found["uuids"].append(str(getattr(device, "uuid", "")))
        found["capabilities"].append([device.major, device.minor])
print("rankdeck " + json.dumps(found))
"""


def machine(environ: Mapping[str, str] = os.environ, api: NvmlApi | None = None) -> Machine:
    """What this machine has. Takes a moment if there are GPUs."""
    api = PynvmlApi() if api is None else api
    opened = telemetry.Telemetry.open(environ, api)
    try:
        gpus = tuple(opened.sample_devices())
        driver, cuda = _driver(api) if opened.reason is None else (None, None)
    finally:
        opened.close()
    memory = psutil.virtual_memory()
    return Machine(
        host=platform.node(),
        cores=processes.usable_cores(),
        memory_free_bytes=memory.available,
        memory_total_bytes=memory.total,
        gpus=gpus,
        seen=_seen(environ, api, gpus) if gpus else (),
        no_gpu=opened.reason,
        not_ours=opened.not_ours,
        left_out=opened.left_out,
        by_number=not opened.not_ours and visible_gpus.named_by_number(environ),
        uncounted=opened.uncounted,
        driver=driver,
        cuda=cuda,
    )


def _seen(environ: Mapping[str, str], api: NvmlApi, gpus: Sequence[DeviceSample]) -> tuple[int | None, ...]:
    visible = telemetry.visible_gpus(environ, api)
    if not visible_gpus.order_is_certain(environ, (gpu.name for gpu in gpus if not gpu.is_mig)):
        return (None,) * len(visible)
    return tuple(rank_gpus.match_rank_to_gpu(gpu.uuid, None, gpus) for gpu in visible)


def _driver(api: NvmlApi) -> tuple[str | None, tuple[int, int] | None]:
    driver, cuda = None, None
    with contextlib.suppress(NvmlFailure):
        driver = api.driver_version()
    with contextlib.suppress(NvmlFailure):
        number = api.cuda_version()
        cuda = number // 1000, number % 1000 // 10
    return driver, cuda


def facts(environ: Mapping[str, str] = os.environ, terminal: Terminal | None = None) -> Facts:
    """All facts except torch's, which take seconds: see `ask_torch`."""
    runs = run_directory.runs_directory()
    return Facts(
        machine=machine(environ),
        python=platform.python_version(),
        packages=_versions(),
        environ={name: environ[name] for name in ENVIRONMENT if name in environ},
        runs=_place(runs),
        cache=_place(platformdirs.user_cache_path("rankdeck")),
        runtime=_runtime(),
        socket_bytes=len(os.fsencode(places.RUNTIME_ROOT / f"rankdeck-{os.getuid()}" / f"{'0' * 16}.sock")),
        shared_memory_bytes=_shared_memory(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],  # the supervisor goes up to the hard limit
        demo_cached=(model_shape.demo_folder() / "model.safetensors").is_file(),
        pip=importlib.util.find_spec("pip") is not None,
        flash=flash_packages.look(),
        vllm=None if (vllm := vllm_package.installed()) is None else str(vllm),
        accelerate_config=_accelerate_config(environ),
        terminal=look_at_terminal(environ) if terminal is None else terminal,
    )


async def ask_torch(seconds: float = TORCH_SECONDS, code: str = ASK_TORCH) -> TorchFound:
    """What torch says about CUDA, from a separate process, killed after `seconds` or if this call is cancelled."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", code),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return TorchFound(error=f"a process to import torch in cannot be started: {error.strerror}")
    try:
        async with asyncio.timeout(seconds):
            said, complaint = await process.communicate()
    except TimeoutError:
        return TorchFound(error=f"importing torch took longer than {seconds:.0f} seconds")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    for line in reversed(said.decode(errors="replace").splitlines()):
        if line.startswith("rankdeck "):
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(line.removeprefix("rankdeck ").encode(), type=TorchFound)
    last = [line.strip() for line in complaint.decode(errors="replace").splitlines() if line.strip()]
    return TorchFound(error=last[-1] if last else f"importing torch ended with status {process.returncode}")


def look_at_terminal(environ: Mapping[str, str] = os.environ) -> Terminal:
    """The terminal of this process, from its environment and its size."""
    size = None
    with contextlib.suppress(OSError, ValueError):
        columns, rows = os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1)
        size = columns, rows
    return Terminal(
        size=size,
        term=environ.get("TERM", ""),
        colours=_colours(environ),
        encoding=locale.getencoding(),
        no_colour=bool(environ.get("NO_COLOR")),
        over_ssh="SSH_CONNECTION" in environ or "SSH_TTY" in environ,
        tmux_clipboard=_tmux_clipboard() if environ.get("TMUX") else None,
    )


def _colours(environ: Mapping[str, str]) -> str:
    term = environ.get("TERM", "")
    if environ.get("COLORTERM", "") in ("truecolor", "24bit") or term.endswith("-direct"):
        return "16 million colours"
    if "256" in term:
        return "256 colours"
    return "no colours" if term in ("", "dumb", "unknown") else "16 colours"


def _tmux_clipboard() -> str:
    try:
        done = subprocess.run(
            ["tmux", "show-options", "-gv", "set-clipboard"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.decode(errors="replace").strip() or "unknown"


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _place(path: Path) -> WritablePlace:
    """Free space and permissions at `path`, or at the nearest existing directory above it: rankdeck makes the rest."""
    try:
        above = next(parent for parent in (path, *path.parents) if parent.exists())
        if not above.is_dir():
            return WritablePlace(path=str(path), error=f"{above} is not a directory")
        if not os.access(above, os.W_OK | os.X_OK):
            return WritablePlace(path=str(path), error=f"you cannot write to {above}")
        return WritablePlace(path=str(path), free_bytes=shutil.disk_usage(above).free)
    except (OSError, StopIteration) as error:
        return WritablePlace(path=str(path), error=str(error))


def _runtime() -> WritablePlace:
    """The directory of the sockets: private to the user, or not made yet."""
    path = places.RUNTIME_ROOT / f"rankdeck-{os.getuid()}"
    try:
        status = path.lstat()
    except FileNotFoundError:
        return _place(path)
    except OSError as error:
        return WritablePlace(path=str(path), error=str(error))
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
        return WritablePlace(path=str(path), error="it is not a directory of your own with mode 0700")
    return _place(path)


def _shared_memory() -> int | None:
    with contextlib.suppress(OSError):
        return shutil.disk_usage("/dev/shm").free
    return None


def _accelerate_config(environ: Mapping[str, str]) -> str | None:
    """The path of the user's own accelerate config, which a run does not read."""
    home = Path(environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    for path in (home / "accelerate" / "default_config.yaml", home / "accelerate" / "default_config.json"):
        with contextlib.suppress(OSError):
            if path.is_file():
                return str(path)
    return None
