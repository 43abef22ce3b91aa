"""Pure: the figures of a sweep, and which setting is best."""
