"""Pure: what the figures of a run suggest, and what in it stands out."""
