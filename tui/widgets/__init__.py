"""Textual widgets: the five views of a run, and the lines, fields and keys that they and the screens are made of."""
