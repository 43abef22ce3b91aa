"""What generates: a model loaded, and batches of prompts turned into answers. The one room that needs torch."""
