"""What trials have found out of a model, kept from run to run: nothing is tried again where nothing has changed.

A finding holds for the very files of a model, computed by the very code that is loaded, with the same settings, on the
same kind of CPU. All of that goes into its name, so that whatever changes makes another name, and the trial is made.
Knows what a finding may depend on and the folder of the findings; knows no trials. On a GPU none are kept: there a
trial is also the first use of every kernel.
"""

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import platformdirs
import torch
import transformers

import rankdeck
from rankdeck.runner import run_directory
from rankdeck.runner.inputs.checkpoint.fingerprint import fingerprints
from rankdeck.runner.run_directory.private_files import open_regular

KEPT = 256
"""Findings that are kept, the newest: each is a small file."""

MOST_BYTES = 64 * 1024

OF_KERNELS = ("ATEN_", "DNNL_", "MKL_", "ONEDNN_", "PYTORCH_", "TORCH_", "TRANSFORMERS_")
"""Variables that may have a model computed another way begin like this."""

CPU = Path("/proc/cpuinfo")
OF_CPU = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part")

Kind = TypeVar("Kind")


class _Kept(msgspec.Struct):
    """A finding in its file; `model` and `trial` are for people who look into it."""

    model: str
    trial: str
    found: msgspec.Raw


@dataclass(frozen=True)
class Findings:
    """The findings on one model in `folder`, by what they depend on; without a folder none are known or kept."""

    folder: Path | None = None
    model: str = ""
    depends_on: str = ""

    def known(self, trial: str, kind: type[Kind]) -> Kind | None:
        """What a trial of this name has found; None if that is not known. A damaged file says nothing."""
        if self.folder is None:
            return None
        try:
            with open_regular(self._path(trial)) as file:
                kept = msgspec.json.decode(file.read(MOST_BYTES), type=_Kept)
            return msgspec.json.decode(kept.found, type=kind)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def keep(self, trial: str, found: Any) -> None:
        """Keep what a trial has found. Several ranks may do so at once; where there is no room it is not kept."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            kept = _Kept(self.model, trial, msgspec.Raw(msgspec.json.encode(found)))
            run_directory.replace_file(self._path(trial), msgspec.json.encode(kept))
            for path in sorted(self.folder.glob("*.json"), key=_age)[KEPT:]:
                path.unlink(missing_ok=True)

    def _path(self, trial: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(f'{self.depends_on} {trial}'.encode()).hexdigest()[:32]}.json"


NOTHING_KEPT = Findings()


def usual_folder() -> Path:
    """Where findings are kept: $XDG_CACHE_HOME/rankdeck/trials."""
    return platformdirs.user_cache_path("rankdeck", appauthor=False) / "trials"


def files_of(model: Path) -> list[tuple[str, str, int, int]]:
    """The files of a model, in a folder or a single one: name, fingerprint, bytes, time of the last change in ns."""
    found = []
    for name, fingerprint in fingerprints(model).items():
        with contextlib.suppress(OSError):
            status = os.stat(model / name if model.is_dir() else model)
            found.append((name, fingerprint, status.st_size, status.st_mtime_ns))
    return found


def findings_on(model: Path, files: Sequence[Any], settings: Sequence[str], folder: Path | None) -> Findings:
    """The findings on a model that has been loaded since its `files` were looked at; none if they are others now."""
    if folder is None or not files or list(files) != files_of(model):
        return NOTHING_KEPT
    name = str(model.resolve())
    parts = (name, files, settings, _code(), _cpu(), _environment())
    return Findings(folder, name, hashlib.sha256(msgspec.json.encode(parts)).hexdigest())


def _code() -> list[tuple[str, int, int]]:
    """Every module that is loaded, by its file with bytes and time: torch, transformers, rankdeck and all they use."""
    versions = (sys.version, torch.__version__, transformers.__version__, rankdeck.__version__)
    found = [(str(version), 0, 0) for version in versions]
    # Not by getattr: some modules import others for the asking.
    files = {getattr(module, "__dict__", {}).get("__file__") for module in sys.modules.copy().values()}
    for file in sorted(file for file in files if isinstance(file, str)):
        with contextlib.suppress(OSError):
            status = os.stat(file)
            found.append((file, status.st_size, status.st_mtime_ns))
    return found


def _cpu() -> list[str]:
    """What this machine's processors are, and which instructions torch uses of theirs."""
    said = [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()]
    with contextlib.suppress(OSError):
        first, _, _ = CPU.read_text(encoding="utf-8", errors="replace").partition("\n\n")
        said += [line for line in first.splitlines() if line.partition(":")[0].strip() in OF_CPU]
    return said


def _environment() -> list[tuple[str, str]]:
    return sorted((name, value) for name, value in os.environ.items() if name.startswith(OF_KERNELS))


def _age(path: Path) -> int:
    """Nanoseconds before the present that a file was written at, up to a constant; of one that is gone, none."""
    try:
        return -path.stat().st_mtime_ns
    except OSError:
        return 0
