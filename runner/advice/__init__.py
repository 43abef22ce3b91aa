"""Pure: what the figures of a run suggest, and what stands out in its timeline."""
