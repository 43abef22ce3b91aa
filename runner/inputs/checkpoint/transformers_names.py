"""What the installed transformers calls its models: read in its source as text, since importing it takes seconds.

Knows where transformers keeps the tables of its auto classes; not what they mean for a run.
"""

import importlib.util
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

GENERIC = "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS"
"""The model types of which transformers passes over the tokenizer class that their files name."""


class Names(NamedTuple):
    """The tables of a release, from a config.json's `model_type`; all empty where they cannot be read.

    `causal`: to the class that `AutoModelForCausalLM` takes. `masked`, `sequence`, `speech`, `pictures`: to those of
    masked language models, encoder-decoders, and models that take sounds or images with their text. `configs`: to the
    class of its configuration, for each type there is. `tokenizers`: to the class of its tokenizer.
    """

    version: str
    causal: dict[str, str]
    masked: dict[str, str]
    sequence: dict[str, str]
    speech: dict[str, str]
    pictures: dict[str, str]
    configs: dict[str, str]
    tokenizers: dict[str, str]

    @property
    def known(self) -> bool:
        """Whether the tables could be read: without them nothing can be said of a model type."""
        return bool(self.causal and self.configs)


@cache
def installed_names() -> Names:
    """The names of the transformers that the ranks will import."""
    found = importlib.util.find_spec("transformers")
    folder = Path(found.origin if found is not None and found.origin else "nowhere").parent / "models" / "auto"

    def table(name: str, *files: str) -> dict[str, str]:
        entries: dict[str, str] = {}
        for file in files:
            entries.update(table_in(_source(folder / file), name))
        return entries

    models = "modeling_auto.py"
    causal = table("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", models)
    configs = table("CONFIG_MAPPING_NAMES", "auto_mappings.py", "configuration_auto.py")
    shared = {configs[kind]: name for kind, name in causal.items() if kind in configs}
    try:
        version = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        version = "?"
    return Names(
        version=version,
        # AutoModelForCausalLM goes by the configuration's class, which several model types may share.
        causal={**{kind: shared[config] for kind, config in configs.items() if config in shared}, **causal},
        masked=table("MODEL_FOR_MASKED_LM_MAPPING_NAMES", models),
        sequence=table("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", models),
        speech=table("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", models),
        pictures=table("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", models),
        configs=configs,
        tokenizers={
            **dict.fromkeys(set_in(_source(folder / "tokenization_auto.py"), GENERIC), "TokenizersBackend"),
            **table("TOKENIZER_MAPPING_NAMES", "tokenization_auto.py"),
        },
    )


def table_in(source: str, name: str) -> dict[str, str]:
    """The entries of an `OrderedDict` of pairs of texts, or of an `update` of it, in a module's source."""
    entries: dict[str, str] = {}
    begins = rf"^{name}(?:\.update\(|(?::[^=\n]+)? = OrderedDict(?:\[[^\n]*\])?\()"
    for block in re.finditer(begins + r"(.*?)^\)", source, re.MULTILINE | re.DOTALL):
        entries.update(re.findall(r'\(\s*"([^"]+)",\s*"([^"]+)"', block[1]))
        entries.update(re.findall(r'^\s*"([^"]+)":\s*"([^"]+)"', block[1], re.MULTILINE))
    return entries


def set_in(source: str, name: str) -> list[str]:
    """The texts of a set in a module's source."""
    found = re.search(rf"^{name}(?::[^=\n]+)? = \{{(.*?)^\}}", source, re.MULTILINE | re.DOTALL)
    return re.findall(r'"([^"]+)"', found[1]) if found else []


def _source(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
