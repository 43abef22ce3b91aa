"""Pure: the figures of a sweep, and which setting is best; what steps read and compute, of what a device could."""
