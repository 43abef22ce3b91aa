"""What a job is given: prompts and a model, and how much memory they need."""
