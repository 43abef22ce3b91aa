"""A stand-in for vLLM, with the surface that a rank uses of it: its LLMEngine computes with transformers, on a CPU.

Each step gives every request one more token, by a whole forward pass over all that it has, so that its answers are the
model's own. Put this folder's parent on the path before anything imports vllm.
"""

__version__ = "0.32.0"
