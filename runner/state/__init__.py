"""Pure: the state of a run, made from its events."""
