"""Pure: what the ranks of one launch were given and have said, what of that can be true, and when one hangs."""
