"""vLLM alone, on a CPU: all prompts handed to it at once, answered greedily.

    PYTHON vllm_alone.py MODEL PROMPTS [--new-tokens 50] [--dtype float32] [--fixed] [--chat] [--eager]

PYTHON is one that has vllm; nothing else is needed, and nothing of rankdeck is used. Which cores it computes on is
VLLM_CPU_OMP_THREADS_BIND's to say. Prints one JSON line. Seconds include tokenising, scheduling and text, not loading,
compiling and a warm-up of as many rows as there are prompts.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

KV_CACHE_BYTES = 4 * 2**30
"""Room for all prompts of these benchmarks at once, in the demo model."""


def read_prompts(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    return [json.loads(line)["prompt"] for line in lines] if path.endswith(".jsonl") else lines


def prefer_its_threads() -> None:
    """Have its workers use Intel's OpenMP, as vLLM's own guide to CPUs advises, where pip has installed it."""
    library = Path(sys.prefix) / "lib" / "libiomp5.so"
    if library.exists():
        os.environ.setdefault("LD_PRELOAD", str(library))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--new-tokens", type=int, default=50)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--fixed", action="store_true", help="end-of-sequence is ignored")
    parser.add_argument("--chat", action="store_true", help="through the model's chat template")
    parser.add_argument("--eager", action="store_true", help="nothing is compiled")
    options = parser.parse_args()
    prefer_its_threads()

    import vllm

    texts = read_prompts(options.prompts)
    began = time.perf_counter()
    model = vllm.LLM(
        options.model,
        dtype=options.dtype,
        enforce_eager=options.eager,
        kv_cache_memory_bytes=KV_CACHE_BYTES,
        max_num_seqs=len(texts),
    )

    def settings(tokens: int, *, fixed: bool) -> Any:
        return vllm.SamplingParams(
            temperature=0, max_tokens=tokens, min_tokens=tokens if fixed else 0, ignore_eos=fixed
        )

    # Other prompts than those that are timed: it keeps what it has computed of a prompt.
    warm = [{"prompt_token_ids": [10 + row % 1000] * 16} for row in range(len(texts))]
    model.generate(warm, settings(4, fixed=True), use_tqdm=False)
    load_seconds = time.perf_counter() - began

    asked = settings(options.new_tokens, fixed=options.fixed)
    started = time.perf_counter()
    if options.chat:
        messages = [[{"role": "user", "content": text}] for text in texts]
        answers = model.chat(messages, asked, use_tqdm=False)
    else:
        answers = model.generate(texts, asked, use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
    figures = {"prompts": len(answers), "output_tokens": tokens, "seconds": seconds}
    figures |= {"tokens_per_second": tokens / seconds, "load_seconds": load_seconds, "version": vllm.__version__}
    figures["prompt_tokens"] = sum(len(answer.prompt_token_ids) for answer in answers)
    figures["first_answer"] = answers[0].outputs[0].text
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
