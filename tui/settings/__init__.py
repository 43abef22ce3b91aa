"""The user's preferences: theme, keys, notifications; and what is remembered."""
