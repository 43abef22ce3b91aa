"""Part of the stand-in for vLLM: its engine.

What prompts say steers it: a prompt that has token 9 twice in a row is refused, one with token 8 twice ends with an
error, one with token 7 twice makes the step fail. A test may set these at will: `REFUSED`, `FAILING`, `BREAKING`.
"""

import os
import time
from types import SimpleNamespace

import torch
import transformers

from vllm.v1.executor.abstract import Executor

BLOCK_TOKENS = 16
STEP_SECONDS = float(os.environ.get("STANDIN_STEP_SECONDS", "0"))
USUAL_ROWS = 256
MOST_TOKENS = None
REFUSED, FAILING, BREAKING = [9, 9], [8, 8], [7, 7]


def _has(tokens, part) -> bool:
    return any(tokens[at : at + len(part)] == part for at in range(len(tokens)))


class LLMEngine:
    """An engine whose requests get a token each, one step after the other."""

    def __init__(self, arguments) -> None:
        config = transformers.AutoConfig.from_pretrained(arguments.model)
        most = getattr(config.get_text_config(), "max_position_embeddings", 2048)
        most = min(most, MOST_TOKENS) if MOST_TOKENS else most
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=most, enforce_eager=arguments.enforce_eager),
            scheduler_config=SimpleNamespace(max_num_seqs=arguments.max_num_seqs or USUAL_ROWS),
            cache_config=SimpleNamespace(
                kv_cache_memory_bytes=arguments.kv_cache_memory_bytes, num_gpu_blocks=64, block_size=BLOCK_TOKENS
            ),
        )
        dtype = getattr(torch, arguments.dtype)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).eval()
        executor = Executor(self.vllm_config)
        executor.determine_available_memory()
        executor.compile_or_warm_up_model()
        self.arguments = arguments
        self.requests: dict[str, SimpleNamespace] = {}
        self.seen: list[list[int]] = []
        self.engine_core = SimpleNamespace(shutdown=lambda: None)

    @classmethod
    def from_engine_args(cls, engine_args, usage_context=None):
        """An engine with these arguments."""
        return cls(engine_args)

    def add_request(self, request_id, prompt, params) -> str:
        """Begin a request, which the next step takes up."""
        tokens = list(prompt["prompt_token_ids"])
        if len(tokens) >= self.vllm_config.model_config.max_model_len or _has(tokens, REFUSED):
            raise ValueError(f"the prompt of {len(tokens)} tokens is refused")
        hits = max((self._common(tokens, other) for other in self.seen), default=0)
        generator = None if params.seed is None else torch.Generator().manual_seed(params.seed)
        self.requests[request_id] = SimpleNamespace(
            tokens=tokens, begun=len(tokens), params=params, hits=hits, generator=generator
        )
        return request_id

    @staticmethod
    def _common(tokens, other) -> int:
        same = next((at for at, pair in enumerate(zip(tokens, other, strict=False)) if pair[0] != pair[1]), None)
        same = min(len(tokens), len(other)) if same is None else same
        return min(same, len(tokens) - 1) // BLOCK_TOKENS * BLOCK_TOKENS

    def abort_request(self, request_ids) -> None:
        """Drop requests."""
        for name in request_ids:
            del self.requests[name]

    def has_unfinished_requests(self) -> bool:
        """Whether any is under way."""
        return bool(self.requests)

    @torch.no_grad()
    def step(self) -> list[SimpleNamespace]:
        """One more token for as many requests as there may be at once."""
        time.sleep(STEP_SECONDS)
        found = []
        for name, request in list(self.requests.items())[: self.vllm_config.scheduler_config.max_num_seqs]:
            if _has(request.tokens, BREAKING):
                raise RuntimeError("EngineCore encountered an issue")
            reason = "error" if _has(request.tokens, FAILING) else self._generated(request)
            delta = [] if reason == "error" else request.tokens[-1:]
            answer = SimpleNamespace(token_ids=delta, finish_reason=reason)
            found.append(
                SimpleNamespace(
                    request_id=name, outputs=[answer], finished=reason is not None, num_cached_tokens=request.hits
                )
            )
            if reason is not None:
                self.seen.append(self.requests.pop(name).tokens)
        return found

    def _generated(self, request) -> str | None:
        params, so_far = request.params, len(request.tokens) - request.begun
        logits = self.model(torch.tensor([request.tokens])).logits[0, -1].float()
        if so_far < params.min_tokens:
            logits[params.stop_token_ids] = -torch.inf
        if params.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(request.tokens)))
            values = logits[seen]
            factor = params.repetition_penalty
            logits[seen] = torch.where(values < 0, values * factor, values / factor)
        if params.temperature == 0:
            token = int(logits.argmax())
        else:
            shares = (logits / params.temperature).softmax(-1)
            token = int(torch.multinomial(shares, 1, generator=request.generator))
        request.tokens.append(token)
        if token in params.stop_token_ids:
            return "stop"
        return "length" if so_far + 1 >= params.max_tokens else None

    def get_metrics(self) -> list[SimpleNamespace]:
        """How full the cache is."""
        room = self.vllm_config.cache_config
        taken = sum(-(-len(request.tokens) // room.block_size) for request in self.requests.values())
        return [
            SimpleNamespace(name="vllm:num_requests_running", value=len(self.requests)),
            SimpleNamespace(name="vllm:kv_cache_usage_perc", value=min(1.0, taken / room.num_gpu_blocks)),
        ]

    def reset_prefix_cache(self) -> bool:
        """Forget what requests that have ended left."""
        self.seen.clear()
        return True
