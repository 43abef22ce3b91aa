"""What a job is given: prompts, a model, and what both take of the memory."""
