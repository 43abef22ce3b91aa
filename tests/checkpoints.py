"""Model folders written by hand, without torch: whole ones, of which a test takes or breaks a part."""

import json
from pathlib import Path
from typing import Any

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 8,
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": False,
}
LAYERS = {
    f"model.layers.{layer}.{name}.weight": shape
    for layer in range(2)
    for name, shape in {"self_attn.q_proj": [4, 4], "mlp.up_proj": [8, 4], "input_layernorm": [4]}.items()
}
SHAPES = {"model.embed_tokens.weight": [8, 4], **LAYERS, "model.norm.weight": [4], "lm_head.weight": [8, 4]}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1234567\n"
VOCABULARY = {letter: number for number, letter in enumerate("abcdefgh")}


def whole(folder: Path, **config: Any) -> Path:
    """A folder that nothing is wrong with; `config` are other settings for its config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **config}))
    safetensors(folder / "model.safetensors", SHAPES)
    tokenizer(folder, VOCABULARY)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    return folder


def safetensors(path: Path, shapes: dict[str, list[int]], dtype: str = "F16") -> None:
    """A file of zeros, two bytes a value."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def sharded(folder: Path) -> tuple[Path, Path]:
    """The weights of `whole` in two files with an index instead of one."""
    (folder / "model.safetensors").unlink()
    names = list(SHAPES)
    files = tuple(folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    parts = (names[:3], names[3:])
    for file, part in zip(files, parts, strict=True):
        safetensors(file, {name: SHAPES[name] for name in part})
    places = {name: file.name for file, part in zip(files, parts, strict=True) for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return files[0], files[1]


def tokenizer(folder: Path, vocabulary: dict[str, int], added: dict[str, int] | None = None) -> None:
    """A tokenizer.json of whole words."""
    tokens = [{"id": number, "content": text, "special": True} for text, number in (added or {}).items()]
    values = {"version": "1.0", "added_tokens": tokens, "model": {"type": "WordLevel", "vocab": vocabulary}}
    (folder / "tokenizer.json").write_text(json.dumps(values))


def change(path: Path, **values: Any) -> None:
    """Other values in a JSON file that may be there."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **values}))
