"""transformers' own continuous batching alone: `model.generate_batch`, on each rank's share of the prompts.

`accelerate launch … tests/benchmarks/generate_batch_alone.py MODEL PROMPTS [--rows 50] [--new-tokens 100] [--fixed]
[--chat]`. The main process gathers and prints one JSON line. Uses nothing of rankdeck.
"""

import argparse
import json
import os
import sys
import time

PAGE_SIZE = 64
MOST_TOKENS = 1024
"""Of all requests in one forward pass: prompts are taken in as many as fit."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--rows", type=int, default=50, help="requests under way at the same time at most")
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--fixed", action="store_true", help="end-of-sequence is ignored")
    parser.add_argument("--chat", action="store_true", help="through the chat template")
    options = parser.parse_args()

    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs, gather_object
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if several else [])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype), attn_implementation="sdpa"
    )
    model = model.to(accelerator.device).eval()
    generation = GenerationConfig(
        max_new_tokens=options.new_tokens,
        do_sample=False,
        # None would bring the model's own back.
        eos_token_id=-1 if options.fixed else model.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with open(options.prompts, encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    prompts = [json.loads(line)["prompt"] for line in lines] if options.prompts.endswith(".jsonl") else lines

    def tokenised(prompt: str) -> list[int]:
        if not options.chat:
            return tokenizer(prompt)["input_ids"]
        asked = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    longest = max(len(tokenised(prompt)) for prompt in prompts) + options.new_tokens

    def generate(inputs: list[list[int]], new_tokens: int) -> list[list[int]]:
        batching = ContinuousBatchingConfig(
            page_size=PAGE_SIZE,
            num_blocks=options.rows * (-(-longest // PAGE_SIZE) + 1),
            max_batch_tokens=max(MOST_TOKENS, options.rows),
            max_requests_per_batch=options.rows,
            allow_block_sharing=False,
        )
        outputs = model.generate_batch(
            inputs,
            generation_config=generation,
            continuous_batching_config=batching,
            max_new_tokens=new_tokens,
        )
        if len(outputs) != len(inputs) or any(output.error for output in outputs.values()):
            raise RuntimeError(f"{len(outputs)} of {len(inputs)}: {[output.error for output in outputs.values()]}")
        return [output.generated_tokens for output in outputs.values()]

    generate([tokenised(prompts[0])], 2)
    accelerator.wait_for_everyone()
    started = time.perf_counter()
    with accelerator.split_between_processes(prompts) as share:
        rows = generate([tokenised(prompt) for prompt in share], options.new_tokens)
        answers = [(len(row), tokenizer.decode(row, skip_special_tokens=True)) for row in rows]
    gathered = gather_object(answers)
    seconds = time.perf_counter() - started
    if accelerator.is_main_process:
        tokens = sum(count for count, _ in gathered)
        figures = {"prompts": len(gathered), "output_tokens": tokens, "seconds": seconds}
        sys.stdout.write(json.dumps(figures | {"tokens_per_second": tokens / seconds}) + "\n")
        sys.stdout.flush()
    accelerator.end_training()


if __name__ == "__main__":
    main()
