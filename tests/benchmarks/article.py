"""The plain way: an accelerate script as one writes it by hand, the 2023 article's batched method.

`accelerate launch … tests/benchmarks/article.py MODEL PROMPTS [--batch-size 16] [--new-tokens 100] [--fixed]
[--chat]`. Each rank takes its share with split_between_processes, generates left-padded batches in the file's
order, gathers at the end, and the main process prints one JSON line. Uses nothing of rankdeck. Unlike the article it
counts no padding as tokens. With `--least-seconds S` each rank does two batches that are not counted, and takes its
prompts again and again, for at least S seconds, going by the second one's time.
"""

import argparse
import json
import math
import os
import sys
import time


def read_prompts(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    return [json.loads(line)["prompt"] for line in lines] if path.endswith(".jsonl") else lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--fixed", action="store_true", help="end-of-sequence is ignored")
    parser.add_argument("--chat", action="store_true", help="through the chat template")
    parser.add_argument("--least-seconds", type=float, help="two uncounted batches, then this many seconds of work")
    options = parser.parse_args()

    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs, gather_object
    from transformers import AutoModelForCausalLM, AutoTokenizer

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if several else [])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    device = accelerator.device
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    placed = {"device_map": {"": device}} if device.type == "cuda" else {}
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype), **placed).eval()
    prompts = read_prompts(options.prompts)
    if options.chat:
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
    eos = None if options.fixed else model.generation_config.eos_token_id
    model.generation_config.eos_token_id = eos
    settings = {"max_new_tokens": options.new_tokens, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    # The same small warm-up that rankdeck's ranks do.
    ids = torch.full((1, 8), tokenizer.pad_token_id, device=device)
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **{**settings, "max_new_tokens": 2})

    def answers_to(texts):
        batch = tokenizer(
            texts,
            padding=True,
            pad_to_multiple_of=8,
            add_special_tokens=not options.chat,  # the template writes them itself
            return_tensors="pt",
        ).to(device)
        with torch.inference_mode():
            rows = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :].tolist()
        for row in rows:
            tokens = row[: row.index(eos) + 1] if eos in row else row
            yield len(tokens), tokenizer.decode(tokens, skip_special_tokens=True)

    if options.least_seconds is not None:
        size = options.batch_size
        list(answers_to(prompts[:size]))  # allocates memory, and brings the clocks up
        began = time.perf_counter()
        list(answers_to(prompts[:size]))
        seconds = max(gather_object([time.perf_counter() - began]))
        batches = max(1, math.ceil(options.least_seconds / seconds)) * accelerator.num_processes
        prompts = [prompts[number % len(prompts)] for number in range(batches * size)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    # accelerate's own wait_for_everyone asks for a device that a rank on a shared GPU does not have.
    gather_object([None])
    started = time.perf_counter()
    answers = []
    with accelerator.split_between_processes(prompts) as share:
        for start in range(0, len(share), options.batch_size):
            answers += answers_to(share[start : start + options.batch_size])
    gathered = gather_object(answers)
    seconds = time.perf_counter() - started
    ended = time.time()
    if accelerator.is_main_process:
        tokens = sum(count for count, _ in gathered)
        figures = {"prompts": len(gathered), "output_tokens": tokens, "seconds": seconds, "ended_at": ended}
        if device.type == "cuda":
            figures["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
            figures["reserved_memory_bytes"] = torch.cuda.max_memory_reserved()
        sys.stdout.write(json.dumps(figures | {"tokens_per_second": tokens / seconds}) + "\n")
        sys.stdout.flush()
    accelerator.end_training()


if __name__ == "__main__":
    main()
