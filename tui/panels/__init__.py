"""Pure: a state and a size in, lines out. Screen, log and report all show these."""
