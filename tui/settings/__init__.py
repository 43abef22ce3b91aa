"""What the user wishes: theme, keys, notifications; and what is remembered."""
