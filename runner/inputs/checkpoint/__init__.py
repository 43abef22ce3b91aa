"""The files of a model, examined before any rank starts: what they are, and whether transformers can load them."""
