"""How a run stands: each status as a word, its mark and its style. Pure data."""

ENDED_EARLY = "ended early"
"""A sweep that was ended while trials of it were left. To run.json it is completed: there is nothing to resume."""

STATUS = {
    "running": ("●", "strong"),
    "completed": ("✓", "good"),
    ENDED_EARLY: ("■", "warn"),
    "stopped": ("■", "warn"),
    "failed": ("✗", "bad"),
    "lost": ("?", "warn"),
    "unreadable": ("!", "bad"),
}
"""Mark and style of each status; the word stands beside it."""
