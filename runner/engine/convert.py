"""Converts a folder with a GGUF file into one that transformers loads directly: float32 safetensors.

Run as `python -m rankdeck.runner.engine.convert GGUF_DIR DESTINATION`, in a separate process, because it imports torch
and holds the whole model in memory. Knows nothing of caches, locks or where the file came from; a failure is a
traceback on stderr, whose last line the parent quotes.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(source: Path, destination: Path) -> None:
    """Dequantise the one .gguf file in `source` and save model and tokenizer into `destination`."""
    (gguf,) = source.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(destination)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf.name).save_pretrained(destination)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
