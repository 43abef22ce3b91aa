"""Prompt files: their kinds, what is in them, and what makes a record a prompt."""
