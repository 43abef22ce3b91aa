"""Part of the stand-in for vLLM."""


def tokens_input(prompt_token_ids):
    """A prompt by its tokens."""
    return {"type": "token", "prompt_token_ids": list(prompt_token_ids)}
