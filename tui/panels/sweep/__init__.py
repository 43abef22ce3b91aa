"""The Sweep view in lines."""
