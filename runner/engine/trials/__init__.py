"""What is tried out on a loaded model, on a few tokens, before it works: that every way to compute gives its logits.

And what its device can do at most, measured without the model.
"""
