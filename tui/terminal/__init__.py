"""The terminal itself: taken over, painted no faster than it can take, and given back whatever happens."""
