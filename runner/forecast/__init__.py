"""Pure: what batches cost, fitted, and what follows for the rest of a job or for other settings."""
