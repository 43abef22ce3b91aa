"""The terminal itself: taken, painted as fast as it can take it, and given back whatever happens."""
