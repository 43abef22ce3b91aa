"""vLLM's own engine, stepped by a rank: its arguments, what of a run's settings it has, and how its rows are kept."""
