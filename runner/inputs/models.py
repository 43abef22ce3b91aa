"""What `--model` means: the demo model, a local folder, or a model on the Hugging Face hub.

Knows which form a folder and a hub id have. Imports neither torch nor transformers and loads nothing: the ranks do.
Here the hub is only asked whether a model exists and may be read; the ranks fetch it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from rankdeck.runner.inputs.demo_model import DemoModel, ModelError, OnProgress, fetched

HUB_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


@dataclass(frozen=True)
class ResolvedModel:
    """What a rank passes to `from_pretrained`, and the `label` that people see."""

    path_or_id: str
    is_local: bool
    label: str


def check_form(model: str) -> str | None:
    """What is wrong with `model`, as far as can be told at once, without a network; None if nothing is."""
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
        ModelError: it does not exist, or cannot be fetched.
    """
    on_progress("checking", None, None)
    if model == "demo":
        demo = demo or DemoModel()
        folder = fetched(demo, on_progress, cache or platformdirs.user_cache_path("rankdeck"))
        resolved = ResolvedModel(str(folder), True, demo.label)
    elif (local := _local_folder(model)) is not None:
        resolved = ResolvedModel(str(local), True, local.name or str(local))
    else:
        _check_hub(model)
        resolved = ResolvedModel(model, False, model.rpartition("/")[2])
    on_progress("found", None, None)
    return resolved


def _local_folder(model: str) -> Path | None:
    """The folder that `model` names; None if it is `demo` or looks like a hub id."""
    if not model.strip():
        raise ModelError("no model is named; give demo, a local folder, or a hub id such as org/name")
    if model == "demo":
        return None
    try:
        path = Path(model).expanduser().absolute()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no access, an unknown ~user, a NUL
        raise ModelError(f"{model!r} cannot be looked at: {error}") from None
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith("/")
    if exists:
        return _check_folder(path)
    if looks_like_path:
        raise ModelError(f"{model!r}: there is no such folder; check the path, or give demo or a hub id (org/name)")
    if not all(HUB_NAME.fullmatch(part) for part in model.split("/")) or re.search(r"--|\.\.|\.git$", model):
        raise ModelError(
            f"{model!r}: there is no such folder, and it is not a hub id either; a hub id is `org/name` or `name`, "
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
    import huggingface_hub  # takes a third of a second, and only hub models need it
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
    except Exception as error:  # whichever HTTP library the hub's client uses: timeouts, no route, no such host
        why = f"{type(error).__name__}: {error}"
        cure = "check the network or proxy, or give a folder, or demo"
        raise ModelError(f"{tried}it cannot be reached ({why}); {cure}") from None
    if "config.json" not in {file.rfilename for file in info.siblings or ()}:
        raise ModelError(f"{tried}the repository has no config.json, so transformers cannot load it; is it GGUF only?")
