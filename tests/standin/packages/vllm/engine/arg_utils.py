"""Part of the stand-in for vLLM."""

from dataclasses import dataclass


@dataclass
class EngineArgs:
    """The arguments of an engine, as far as a rank gives them."""

    model: str
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    trust_remote_code: bool = False
    seed: int = 0
    max_model_len: int = -1
    skip_tokenizer_init: bool = False
    generation_config: str = "auto"
    use_tqdm_on_load: bool = True
    disable_log_stats: bool = False
    quantization: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = False
    kv_cache_memory_bytes: int | None = None
