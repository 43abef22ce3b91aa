"""Pure: the figures of a sweep, and which setting is best; how much of what a device can do is used."""
