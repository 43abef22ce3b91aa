"""One terminal: a run watched in it, with a screen or in lines."""
