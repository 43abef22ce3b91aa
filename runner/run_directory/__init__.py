"""A run on disk: where it lives, what its files hold, who holds its lock."""
