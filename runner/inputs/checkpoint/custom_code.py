"""Models that bring Python of their own: what needs it, and what is to be known before it runs. Pure.

Unless the user trusts the model, transformers uses its own code where it has some for the model type.
"""

from collections.abc import Collection
from typing import Any

from rankdeck.runner.inputs.checkpoint.transformers_names import Names

RISK = "it would run on this machine with all your permissions. Read it; if you trust it, add --trust-remote-code"

OF_NO_MODEL = frozenset({"PreTrainedTokenizer", "PythonBackend", "TokenizersBackend"})
"""Tokenizer classes of transformers itself that belong to no model type."""


def auto_map(values: dict[str, Any]) -> dict[str, str]:
    """From an auto class to the class in the model's own Python, such as `modeling_x.XForCausalLM`."""
    listed = values.get("auto_map")
    return {key: value for key, value in listed.items() if isinstance(value, str)} if isinstance(listed, dict) else {}


def needed_code(config: dict[str, Any], names: Names) -> list[str]:
    """The classes that a config.json names in the model's own Python, and transformers has not for its model type."""
    kind, code = config.get("model_type"), auto_map(config)
    here = {"AutoConfig": kind in names.configs or kind in names.causal, "AutoModelForCausalLM": kind in names.causal}
    return [code[name] for name, known in here.items() if name in code and names.known and not known]


def needed_tokenizer_code(tokenizer_config: dict[str, Any], config: dict[str, Any], names: Names) -> list[str]:
    """The tokenizer classes in the model's own Python, if transformers has none for this model."""
    listed = tokenizer_config.get("auto_map")
    pair = listed.get("AutoTokenizer") if isinstance(listed, dict) else listed
    places = [place for place in pair if isinstance(place, str)] if isinstance(pair, list) else []
    known = {name.removesuffix("Fast") for name in (*names.tokenizers.values(), *OF_NO_MODEL)}
    own = str(tokenizer_config.get("tokenizer_class") or "").removesuffix("Fast")
    here = not names.known or own in known or config.get("model_type") in names.tokenizers
    return [] if here else places


def why_not_run(classes: Collection[str], kind: object, names: Names) -> str:
    """What a person must know before code of a model is run."""
    files = " and ".join(sorted({file_of(place) for place in classes}))
    return (
        f"custom code: transformers {names.version} has no code for model type {kind!r}, "
        f"so the model brings its own Python ({files}); {RISK}"
    )


def why_no_head(code: dict[str, str]) -> str:
    """The words for a model whose own Python has no causal language model."""
    return f"not a causal language model: its own Python has {', '.join(sorted(code))} but no AutoModelForCausalLM"


def file_of(place: str) -> str:
    """The file of `modeling_x.XForCausalLM`; of `org/name--modeling_x.X` with the repository on the hub."""
    repository, _, there = place.rpartition("--")
    file = f"{there.rpartition('.')[0]}.py"
    return f"{file} of {repository} on the hub" if repository else file
