"""The terminal: everything a person sees of a run. Imports no torch, at import or later."""
