"""The Outputs view in lines."""
