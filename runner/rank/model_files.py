"""The files of a rank's model, in a folder of this machine. Knows the hub, and that several ranks need them."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec
from filelock import FileLock

from rankdeck.runner import run_directory
from rankdeck.runner.inputs.checkpoint.folder import SMALL_FILES
from rankdeck.runner.run_directory.private_files import open_regular

SNAPSHOTS = "snapshots"
"""The folder in the hub's cache that has a folder for each revision of a model, by its commit."""


NOTE_BYTES = 64 * 1024


def model_folder(model: str, run_dir: Path) -> str:
    """The model's folder. Of a hub model, the first rank to ask for it fetches the files, while the others wait."""
    return model if Path(model).is_dir() else fetched_once(run_dir, model, _hub_folder, _in_cache)


def _hub_folder(model: str, revision: str | None = None) -> str:
    """The folder of a hub model in the local cache, fetched if it is not there."""
    from huggingface_hub import snapshot_download

    patterns = [*SMALL_FILES, "*.safetensors"]
    folder = snapshot_download(model, revision=revision, allow_patterns=patterns)
    if not _has_weights(Path(folder), "*.safetensors"):
        folder = snapshot_download(model, revision=revision, allow_patterns=[*patterns, "*.bin"])
    return str(folder)


def _has_weights(folder: Path, *patterns: str) -> bool:
    """Whether there are weights; not if only the names are left of what was purged from the cache."""
    return any(path.is_file() for pattern in patterns or ("*.safetensors", "*.bin") for path in folder.glob(pattern))


def _in_cache(model: str, folder: Path) -> bool:
    """Whether the folder is in the hub's cache, as one of this model, with its weights: a note may be anybody's."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    of_model = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / SNAPSHOTS
    return folder.parent == of_model and _has_weights(folder)


def fetched_once(
    run_dir: Path,
    model: str,
    fetch: Callable[[str, str | None], str],
    may_be_used: Callable[[str, Path], bool] = lambda model, folder: True,
) -> str:
    """The folder that `fetch` gets for `model`: one rank calls it while the others wait, then all have what it got.

    So have those that are launched later, for the hub may have another revision by then. If the folder is gone, or may
    not be used, the same revision is fetched again.

    Raises:
        OSError: the revision that the run began with cannot be had any more.
        Exception: whatever `fetch` raises; the next rank then tries for itself.
    """
    note = run_dir / run_directory.MODEL_FOLDER_FILE
    with FileLock(run_dir / run_directory.MODEL_LOCK_FILE, mode=0o600):
        revision = None
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            with open_regular(note) as file:
                known, noted = msgspec.json.decode(file.read(NOTE_BYTES), type=tuple[str, str])
            if known == model:
                folder = Path(noted)
                if may_be_used(model, folder) and folder.is_dir():
                    return noted
                revision = folder.name if folder.parent.name == SNAPSHOTS else None
        try:
            fetched = fetch(model, revision)
        except Exception as error:
            if revision is None:
                raise
            raise OSError(f"the run began with revision {revision} of {model}, which cannot be had: {error}") from error
        run_directory.replace_file(note, msgspec.json.encode((model, fetched)))
        return fetched
