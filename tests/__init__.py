"""The tests, in folders that mirror the rooms; what several of them share stands here."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project's root."""
