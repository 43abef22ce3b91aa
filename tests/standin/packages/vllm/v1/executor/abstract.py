"""Part of the stand-in for vLLM."""


class Executor:
    """Does nothing; a rank learns from its calls how far loading is."""

    def __init__(self, vllm_config) -> None:
        self.vllm_config = vllm_config

    def determine_available_memory(self) -> list[int]:
        """Bytes for the cache."""
        return [self.vllm_config.cache_config.kv_cache_memory_bytes or 0]

    def compile_or_warm_up_model(self) -> None:
        """Nothing is compiled."""
