"""The files of a model, looked into before any rank starts: what they are, and whether transformers can load them."""
