"""The files of a rank's model, in a folder of this machine. Knows the hub, and that several ranks need them."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec
from filelock import FileLock

from rankdeck.runner.inputs.checkpoint.folder import SMALL_FILES


def model_folder(model: str, run_dir: Path) -> str:
    """The model's folder. Of a hub model, the first rank to ask for it fetches the files, while the others wait."""
    return model if Path(model).is_dir() else fetched_once(run_dir, model, _hub_folder)


def _hub_folder(model: str) -> str:
    """The folder of a hub model in the local cache, fetched if it is not there."""
    from huggingface_hub import snapshot_download

    patterns = [*SMALL_FILES, "*.safetensors"]
    folder = snapshot_download(model, allow_patterns=patterns)
    if not any(Path(folder).glob("*.safetensors")):
        folder = snapshot_download(model, allow_patterns=[*patterns, "*.bin"])
    return str(folder)


def fetched_once(run_dir: Path, model: str, fetch: Callable[[str], str]) -> str:
    """The folder that `fetch` gets for `model`: one rank calls it while the others wait, then all have what it got.

    Raises:
        Exception: whatever `fetch` raises; the next rank then tries for itself.
    """
    found = run_dir / "model-folder.json"
    with FileLock(run_dir / "model-folder.lock"):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            known, folder = msgspec.json.decode(found.read_bytes(), type=tuple[str, str])
            if known == model and Path(folder).is_dir():
                return folder
        folder = fetch(model)
        found.write_bytes(msgspec.json.encode((model, folder)))
        return folder
