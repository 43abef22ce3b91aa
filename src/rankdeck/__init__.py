"""rankdeck: a flight deck for LLM batch inference on several GPUs.

The job is `rankdeck.runner`, the terminal `rankdeck.tui`; in the project's folder they stand at the top.
"""

__version__ = "0.1.0"
