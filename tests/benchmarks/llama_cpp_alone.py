"""llama.cpp alone: greedy decoding of so many sequences at a time, through llama-cpp-python's batch interface.

    PYTHON llama_cpp_alone.py MODEL.gguf PROMPTS --parallel 16 [--new-tokens 100] [--threads 2] [--fixed] [--chat]
    PYTHON llama_cpp_alone.py MODEL.gguf --convert f16 --to OTHER.gguf

PYTHON is one that has llama_cpp; nothing else is needed, and nothing of rankdeck is used. Sequences stay `parallel`
at all times while there are prompts left: where one ends, the next prompt takes its place in the same cache. Prints one
JSON line. Seconds include tokenising and text, not loading and a warm-up.
"""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Sequence

import llama_cpp as llama
import numpy as np

FILE_TYPES = {"f32": 0, "f16": 1}
"""llama_ftype's numbers of files with nothing quantised."""


def read_prompts(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    return [json.loads(line)["prompt"] for line in lines] if path.endswith(".jsonl") else lines


class Decoder:
    """A model with a cache for `parallel` sequences, each of at most `width` tokens."""

    def __init__(self, path: str, parallel: int, width: int, threads: int) -> None:
        llama.llama_backend_init()
        settings = llama.llama_model_default_params()
        settings.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp cannot load it")
        self.vocabulary = llama.llama_model_get_vocab(self.model)
        self.words = llama.llama_vocab_n_tokens(self.vocabulary)
        room = llama.llama_context_default_params()
        room.n_ctx = parallel * width
        room.n_batch = room.n_ubatch = max(512, parallel)
        room.n_seq_max = parallel
        room.n_threads = room.n_threads_batch = threads
        room.no_perf = True
        if hasattr(room, "kv_unified"):
            room.kv_unified = False  # each sequence attends to its own part of the cache alone
        self.most = room.n_batch
        self.context = llama.llama_init_from_model(self.model, room)
        if not self.context:
            raise SystemExit(f"llama.cpp made no context of {parallel} x {width} tokens")
        self.memory = llama.llama_get_memory(self.context)
        self.batch = llama.llama_batch_init(self.most, 0, 1)

    def tokens(self, text: str, *, special: bool) -> list[int]:
        raw = text.encode()
        found = (llama.llama_token * (len(raw) + 8))()
        count = llama.llama_tokenize(self.vocabulary, raw, len(raw), found, len(found), False, special)
        return list(found[:count])

    def text(self, tokens: Sequence[int]) -> str:
        pieces = []
        piece = ctypes.create_string_buffer(256)
        for token in tokens:
            count = llama.llama_token_to_piece(self.vocabulary, token, piece, len(piece), 0, False)
            pieces.append(piece.raw[: max(0, count)])
        return b"".join(pieces).decode("utf-8", "replace")

    def decode(self, entries: Sequence[tuple[int, int, int, bool]]) -> dict[int, int]:
        """One pass over (token, position, sequence, wanted); the likeliest next token of each wanted, by place."""
        for place, (token, position, sequence, wanted) in enumerate(entries):
            self.batch.token[place] = token
            self.batch.pos[place] = position
            self.batch.n_seq_id[place] = 1
            self.batch.seq_id[place][0] = sequence
            self.batch.logits[place] = wanted
        self.batch.n_tokens = len(entries)
        status = llama.llama_decode(self.context, self.batch)
        if status != 0:
            raise SystemExit(f"llama_decode of {len(entries)} tokens ended with {status}")
        found = {}
        for place, entry in enumerate(entries):
            if entry[3]:
                logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(self.context, place), (self.words,))
                found[place] = int(logits.argmax())
        return found

    def forget(self, sequence: int) -> None:
        llama.llama_memory_seq_rm(self.memory, sequence, -1, -1)


def generate(
    decoder: Decoder, prompts: list[list[int]], parallel: int, new_tokens: int, fixed: bool
) -> list[list[int]]:
    """Every prompt's new tokens, the end-of-sequence token included."""
    answers: list[list[int]] = [[] for _ in prompts]
    waiting = list(range(len(prompts)))[::-1]
    under_way: dict[int, int] = {}  # sequence to prompt
    while waiting or under_way:
        # Every sequence under way has one token to go in; what room is left is for new prompts, whole ones.
        entries = []
        for sequence, prompt in under_way.items():
            answer = answers[prompt]
            entries.append((answer[-1], len(prompts[prompt]) + len(answer) - 1, sequence, True))
        for sequence in set(range(parallel)) - set(under_way):
            if not waiting or len(entries) + len(prompts[waiting[-1]]) > decoder.most:
                break
            prompt = under_way[sequence] = waiting.pop()
            last = len(prompts[prompt]) - 1
            entries += [(token, place, sequence, place == last) for place, token in enumerate(prompts[prompt])]
        for place, token in decoder.decode(entries).items():
            sequence = entries[place][2]
            answer = answers[under_way[sequence]]
            answer.append(token)
            ended = not fixed and llama.llama_vocab_is_eog(decoder.vocabulary, token)
            if ended or len(answer) == new_tokens:
                del under_way[sequence]
                decoder.forget(sequence)
    return answers


def chat(prompt: str) -> str:
    """The demo model's template, for one message and no system message of one's own."""
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    messages = (("system", system), ("user", prompt))
    said = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
    return f"{said}<|im_start|>assistant\n"


def convert(source: str, target: str, kind: str) -> None:
    settings = llama.llama_model_quantize_default_params()
    settings.ftype = FILE_TYPES[kind]
    settings.allow_requantize = True
    if llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)) != 0:
        raise SystemExit(f"{source} cannot be converted to {kind}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("prompts", nargs="?")
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fixed", action="store_true", help="end-of-sequence is ignored")
    parser.add_argument("--chat", action="store_true", help="through the demo model's chat template")
    parser.add_argument("--convert", choices=tuple(FILE_TYPES))
    parser.add_argument("--to")
    options = parser.parse_args()
    if options.convert:
        convert(options.model, options.to, options.convert)
        return
    texts = read_prompts(options.prompts)
    asked = [chat(text) if options.chat else text for text in texts]
    longest = max(len(text.encode()) for text in asked)  # no token is shorter than a byte
    tokens_at_most = min(longest, 1024)
    width = -(-(tokens_at_most + options.new_tokens) // 64) * 64
    decoder = Decoder(options.model, options.parallel, width, options.threads)
    generate(decoder, [decoder.tokens("Hello", special=False)], options.parallel, 2, True)
    started = time.perf_counter()
    prompts = [decoder.tokens(text, special=options.chat) for text in asked]
    answers = generate(decoder, prompts, options.parallel, options.new_tokens, options.fixed)
    said = [decoder.text(answer) for answer in answers]
    seconds = time.perf_counter() - started
    tokens = sum(len(answer) for answer in answers)
    figures = {"prompts": len(said), "output_tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}
    figures |= {"prompt_tokens": sum(map(len, prompts)), "first_answer": said[0], "version": llama.__version__}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
