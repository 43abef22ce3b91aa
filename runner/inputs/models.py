"""What `--model` means: the demo model, a local folder, or a model on the Hugging Face hub.

Knows which form a folder and a hub id have; what is in a folder, `runner.inputs.checkpoint` looks into. Imports neither
torch nor transformers and loads nothing: the ranks do. Here the hub is only asked whether a model exists and may be
read, and for its small files; the ranks fetch it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from rankdeck.runner.inputs.checkpoint import folder, tokenizer
from rankdeck.runner.inputs.checkpoint.examine import examine
from rankdeck.runner.inputs.demo_model import DemoModel, ModelError, OnProgress, fetched
from rankdeck.runner.protocol.config import RunConfig

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


def why_unusable(config: RunConfig) -> list[str]:
    """All that is wrong with the files of a model in a folder; none for others, which are looked into when fetched."""
    try:
        local = _local_folder(config.model)
    except ModelError as error:
        return [str(error)]
    if local is None:
        return []
    return list(examine(local, trust_remote_code=config.trust_remote_code, chat=config.chat).problems)


def why_no_chat(config: RunConfig) -> str | None:
    """Why prompts with messages cannot be answered by a model in a folder; None if they can, or for other models."""
    try:
        local = _local_folder(config.model)
    except ModelError:
        return None
    said = None if local is None else tokenizer.why_no_chat(local, folder.names_in(local), config.trust_remote_code)
    return said and f"{local}: {said}"


def fetch_small_files(model: str) -> Path | None:
    """The folder in the hub's cache with all files of a hub model but its weights; None if they cannot be had.

    The ranks will fetch the model, and say why they cannot.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=list(folder.SMALL_FILES)))
    except Exception:  # whichever HTTP library the hub's client uses
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
        made = fetched(demo, on_progress, cache or platformdirs.user_cache_path("rankdeck"))
        resolved = ResolvedModel(str(made), True, demo.label)
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
    if said := folder.why_no_model(path):
        raise ModelError(said)
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
    files = [file.rfilename for file in info.siblings or ()]
    if "config.json" not in files:
        other = "an adapter, which needs its base model" if "adapter_config.json" in files else folder.other_kind(files)
        has = f"; it has {other}" if other else ""
        raise ModelError(f"{tried}the repository has no config.json, so transformers cannot load it{has}")
