"""Loads a model and turns batches of prompts into answers. With the ranks, the only package that imports torch."""
