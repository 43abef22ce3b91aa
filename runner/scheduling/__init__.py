"""Pure: which prompts go to which rank next, and how many at a time."""
