"""How a model generates: its settings, its vocabulary, what is done to its logits, and what it keeps of rows."""
