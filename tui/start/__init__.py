"""The start screen: the runs there are, a form for the next one, and what is launched from there."""
