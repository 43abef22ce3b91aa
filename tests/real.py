"""`python -m tests.real`: what plain transformers answers, one prompt at a time; the yardstick for real runs.

Reads {"model": folder, "max_new_tokens": n, "prompts": [...]} from standard input, writes a JSON list of
{"text", "output_tokens"} to standard output. Uses nothing of rankdeck.
"""

import json
import sys


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
    answers = []
    for prompt in asked["prompts"]:
        inputs = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            row = model.generate(**inputs, max_new_tokens=asked["max_new_tokens"], do_sample=False)[0]
        new = row[inputs["input_ids"].shape[1] :].tolist()
        if tokenizer.eos_token_id in new:
            new = new[: new.index(tokenizer.eos_token_id) + 1]
        answers.append({"text": tokenizer.decode(new, skip_special_tokens=True), "output_tokens": len(new)})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
