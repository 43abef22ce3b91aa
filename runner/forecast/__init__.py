"""Pure: a model of what batches cost, and what it predicts for the rest of a job and for other settings."""
