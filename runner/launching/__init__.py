"""How ranks come to be: `accelerate launch`, the parent that forks them, their environment, and how each ended."""
