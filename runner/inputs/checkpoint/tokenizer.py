"""The tokenizer of a model, as far as its files show: whether there is one, its chat template, tokens it must not make.

Knows the names of the files that transformers reads. Makes no tokens.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rankdeck.runner.inputs.checkpoint.folder import listed
from rankdeck.runner.inputs.checkpoint.json_file import BrokenFile, content, read_object
from rankdeck.runner.inputs.quantization import Package, installed

WHOLE = re.compile(r"tokenizer(\.[\d.]+)?\.json|tekken\.json")
"""Files that are a tokenizer by themselves."""
PIECES = re.compile(r".*\.model(\.v\d+\w*)?|.*\.tiktoken|.*\.spm")
VOCABULARY = re.compile(r".*vocab.*\.(json|txt|bpe)|.*\.vocab|byte_maps\.json")

WITHOUT_FILES = frozenset({"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"})
"""Tokenizers of bytes or characters."""

WHOLE_FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
BESIDE = (SETTINGS, "special_tokens_map.json", "added_tokens.json")
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"

SENTENCEPIECE = (Package("sentencepiece", "sentencepiece"), Package("google.protobuf", "protobuf"))
TIKTOKEN = (Package("tiktoken", "tiktoken"),)


class AddedToken(msgspec.Struct, frozen=True):
    """A token beside a tokenizer's vocabulary."""

    id: int
    content: str


class TokenizerModel(msgspec.Struct, frozen=True):
    """The vocabulary, whose form depends on the kind of model. Its merges, most of the file, are passed over."""

    vocab: Any = None


class TokenizerFile(msgspec.Struct, frozen=True):
    """What a tokenizer.json is read for; all of it must be JSON."""

    model: TokenizerModel
    added_tokens: list[AddedToken] = []


def problems_of(
    folder: Path, names: Iterable[str], is_installed: Callable[[Package], str | None] = installed
) -> list[str]:
    """What is wrong with the tokenizer in a folder."""
    there, problems = set(names), []
    settings: dict[str, Any] = {}
    for name in BESIDE:
        try:
            values = read_object(folder / name) if name in there else {}
        except BrokenFile as error:
            problems.append(str(error))
            continue
        settings = values if name == SETTINGS else settings
    whole = sorted(name for name in there if WHOLE.fullmatch(name))
    pieces = sorted(name for name in there if PIECES.fullmatch(name))
    if whole:
        return problems  # its content is read by `read_tokenizer`
    if pieces:
        problems.extend(_lacking(folder / pieces[0], is_installed))
    elif vocabulary := sorted(name for name in there if VOCABULARY.fullmatch(name)):
        if vocabulary == ["vocab.json"] and not any(name.startswith("merges") for name in there):
            problems.append(
                f"{folder} has vocab.json without merges.txt, which belongs to it; fetch the tokenizer again"
            )
    elif str(settings.get("tokenizer_class")).removesuffix("Fast") not in WITHOUT_FILES:
        problems.append(
            f"{folder} has no tokenizer: tokenizer.json, tokenizer.model, or vocab.json and merges.txt; put there that "
            "of the model it was made from: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    return problems


def read_tokenizer(folder: Path) -> TokenizerFile:
    """The tokenizer.json of a folder.

    Raises:
        BrokenFile: it is no JSON, or no tokenizer.
    """
    path = folder / WHOLE_FILE
    raw = content(path)
    try:
        return msgspec.json.decode(raw, type=TokenizerFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        read_object(path)  # says where it is no JSON
        raise BrokenFile(f"{path} is not a tokenizer: {error}; fetch it again") from None


def why_no_chat(folder: Path, names: Iterable[str], trusted: bool) -> str | None:
    """Why messages cannot be put into this model's own form; None if they can, or if that cannot be told.

    `trusted` is whether the model's own Python may run, which may do it.
    """
    there = set(names)
    if not any(WHOLE.fullmatch(name) or PIECES.fullmatch(name) or VOCABULARY.fullmatch(name) for name in there):
        return None  # without a tokenizer nothing can be told
    if "tekken.json" in there:
        return None
    if template := _text(folder / TEMPLATE_FILE):
        return _why_unreadable(template, TEMPLATE_FILE)
    try:
        settings = read_object(folder / SETTINGS) if SETTINGS in there else {}
    except BrokenFile:
        return None
    if trusted and "auto_map" in settings:
        return None
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
    if isinstance(found, str) and found:
        return _why_unreadable(found, SETTINGS)
    others = (
        found if isinstance(found, Mapping) else {path.stem: "" for path in folder.glob(f"{TEMPLATE_FOLDER}/*.jinja")}
    )
    if "default" in others:
        return _why_unreadable(others["default"], SETTINGS)
    cure = f"leave --chat out and give plain prompts, or put the model's template into {folder / TEMPLATE_FILE}"
    if others:
        return f"of its chat templates ({listed([str(name) for name in others])}) none is the default one: {cure}"
    if "chat_template.json" in there:
        cure = (
            f"its chat_template.json is for a processor of images; put the template in it into {folder / TEMPLATE_FILE}"
        )
    return f"the model has no chat template, which --chat and prompts with messages need: {cure}"


def _why_unreadable(template: object, where: str) -> str | None:
    from rankdeck.runner.inputs.checkpoint.chat_template import why_broken  # Jinja takes a while to import

    broken = why_broken(template) if isinstance(template, str) else None
    if broken is None:
        return None
    return (
        f"its chat template, in {where}, has an error ({broken}), and --chat and prompts with messages need it: "
        "fetch it again, or leave --chat out and give plain prompts"
    )


def beyond(read: TokenizerFile, rows: int) -> str | None:
    """A line about tokens that a tokenizer may make and an embedding of so many rows has not; None if all fit. Pure."""
    vocabulary = read.model.vocab
    added = [token for token in read.added_tokens if token.id >= rows]
    tokens = [*(repr(token.content) for token in added)]
    if isinstance(vocabulary, dict):
        known = {token.content for token in read.added_tokens}
        tokens += [repr(text) for text, number in vocabulary.items() if _past(number, rows) and text not in known]
    elif isinstance(vocabulary, list) and len(vocabulary) > rows:
        tokens += [repr(pair[0]) for pair in vocabulary[rows:] if isinstance(pair, list) and pair]
    if not tokens:
        return None
    return (
        f"the tokenizer has tokens beyond the model's {rows:,} ({listed(tokens)}): a prompt with one cannot be answered"
    )


def _past(number: object, rows: int) -> bool:
    return isinstance(number, int) and number >= rows


def _lacking(path: Path, is_installed: Callable[[Package], str | None]) -> list[str]:
    """The packages that a file of pieces needs and this machine lacks; an empty file is said, too."""
    try:
        raw = content(path)
    except BrokenFile as error:
        return [str(error)]
    # tiktoken's is text: a token in base64 and its rank in each line. SentencePiece's is a protocol buffer.
    text = re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", raw[:4096])
    packages = TIKTOKEN if path.suffix == ".tiktoken" or text else SENTENCEPIECE
    missing = [package.pip for package in packages if is_installed(package) is None]
    if not missing:
        return []
    kind = "tiktoken" if packages is TIKTOKEN else "SentencePiece"
    return [f"{path} is a {kind} tokenizer, which needs another package: pip install {' '.join(missing)}"]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
