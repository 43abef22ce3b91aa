"""The plain way: an accelerate script as one writes it by hand, the 2023 article's batched method.

`accelerate launch … tests/benchmarks/article.py MODEL PROMPTS BATCH_SIZE NEW_TOKENS fixed|natural`. Each rank takes
its share with split_between_processes, generates left-padded batches in the file's order, gathers at the end, and the
main process prints one JSON line. Uses nothing of rankdeck. Unlike the article it counts no padding as tokens.
"""

import json
import os
import sys
import time


def main() -> None:
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs, gather_object
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model_path, prompts_path, batch_size, new_tokens, length = sys.argv[1:]
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if several else [])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    tokenizer = AutoTokenizer.from_pretrained(model_path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).to(accelerator.device).eval()
    eos = None if length == "fixed" else model.generation_config.eos_token_id
    with open(prompts_path, encoding="utf-8") as file:
        prompts = [line.rstrip("\n") for line in file]
    # The same small warm-up that rankdeck's ranks do.
    ids = torch.full((1, 8), tokenizer.pad_token_id, device=accelerator.device)
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)

    accelerator.wait_for_everyone()
    started = time.perf_counter()
    answers = []
    with accelerator.split_between_processes(prompts) as share:
        for start in range(0, len(share), int(batch_size)):
            batch = tokenizer(
                share[start : start + int(batch_size)], padding=True, pad_to_multiple_of=8, return_tensors="pt"
            ).to(accelerator.device)
            settings = {"max_new_tokens": int(new_tokens), "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
            if eos is None:
                generation = model.generation_config
                generation.eos_token_id = None
            with torch.inference_mode():
                rows = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :].tolist()
            for row in rows:
                tokens = row[: row.index(eos) + 1] if eos in row else row
                answers.append((len(tokens), tokenizer.decode(tokens, skip_special_tokens=True)))
    gathered = gather_object(answers)
    seconds = time.perf_counter() - started
    if accelerator.is_main_process:
        tokens = sum(count for count, _ in gathered)
        sys.stdout.write(
            json.dumps(
                {
                    "prompts": len(gathered),
                    "output_tokens": tokens,
                    "seconds": seconds,
                    "tokens_per_second": tokens / seconds,
                }
            )
            + "\n"
        )
        sys.stdout.flush()
    accelerator.end_training()


if __name__ == "__main__":
    main()
