"""Part of the stand-in for vLLM."""


class _Platform:
    def is_cpu(self) -> bool:
        return True


current_platform = _Platform()
