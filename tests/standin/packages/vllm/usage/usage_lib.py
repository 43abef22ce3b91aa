"""Part of the stand-in for vLLM."""

import enum


class UsageContext(enum.Enum):
    """What vLLM is used for."""

    LLM_CLASS = "LLM_CLASS"
