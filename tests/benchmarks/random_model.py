"""A folder with a model of Llama's shape and random weights, made on the device itself in seconds, with no network.

    python -m tests.benchmarks.random_model FOLDER --size 7B [--device cuda] [--dtype bfloat16] [--spread 0.02]
        [--rows N]

What it answers is nonsense; how fast it does so is what a trained model of this shape would take. The tokenizer is
trained here on made-up words. Prints one JSON line: parameters, bytes, seconds, bytes/s of a copy on the device.
`--spread` is the weights' standard deviation: with a larger one an answer depends more on its whole prompt. `--rows`
sets the rows of the embeddings, whatever the size of the tokenizer's vocabulary.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 1024},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "vocab_size": 32000},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    | {"num_key_value_heads": 32, "vocab_size": 32000},
}
"""7B is the shape of the article's Llama 2, one key and value head per query head; 1B shares each among four."""

CONTEXT = 2048
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")


def kv_bytes_per_token(size: str, item_bytes: int = 2) -> int:
    """Keys and values of one token in all layers."""
    shape = SHAPES[size]
    width = shape["hidden_size"] // shape["num_attention_heads"]
    return 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * width * item_bytes


def parameters(size: str) -> int:
    """Of the matrices; the norms' are too few to count."""
    shape = SHAPES[size]
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    shared = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * shared + 3 * hidden * inner
    return shape["num_hidden_layers"] * layer + 2 * shape["vocab_size"] * hidden


def tokenizer(words: int) -> Any:
    """A byte-level tokenizer of at most `words` tokens, always the same one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    chance = random.Random(5)
    syllables = [
        first + vowel + last for first in "bdfgklmnprstvw" for vowel in "aeiou" for last in ("", "n", "r", "s")
    ]
    text = (
        " ".join("".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(20)) for _ in range(4000)
    )
    made = Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(text, trainer)
    unknown, begin, end, pad = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token=unknown,
        bos_token=begin,
        eos_token=end,
        pad_token=pad,
        model_max_length=CONTEXT,
    )


def make(
    folder: Path, size: str, device: str, dtype: str, spread: float = 0.02, rows: int | None = None
) -> dict[str, Any]:
    """Write the model into `folder`, and say what it is."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    began = time.monotonic()
    made = tokenizer(SHAPES[size]["vocab_size"])
    config = LlamaConfig(
        **SHAPES[size] | {"vocab_size": rows or SHAPES[size]["vocab_size"]},
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        tie_word_embeddings=False,
    )
    # The shape alone costs no memory; the weights are then written where they are used, never on the host.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model = model.to_empty(device=device)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "norm" in name:
                values.fill_(1.0)
            else:
                values.normal_(0.0, spread)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return {
        "size": size,
        "parameters": sum(values.numel() for values in model.parameters()),
        "bytes": sum(values.numel() * values.element_size() for values in model.parameters()),
        "seconds": round(time.monotonic() - began, 1),
        "copy_bytes_per_second": _copy_bandwidth(device),
        "memory_bytes": torch.cuda.mem_get_info()[1] if device.startswith("cuda") else None,
        "device_name": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "torch": torch.__version__,
    }


def _copy_bandwidth(device: str) -> float:
    import torch

    source = torch.empty(256 * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        target.copy_(source)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * source.numel() / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=tuple(SHAPES), default="1B")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--spread", type=float, default=0.02)
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    made = make(options.folder, options.size, options.device, options.dtype, options.spread, options.rows)
    sys.stdout.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
