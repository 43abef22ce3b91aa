"""The start screen: earlier runs, a form for the next one, and what is launched from there."""
