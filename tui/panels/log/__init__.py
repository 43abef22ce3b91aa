"""The Log view in lines."""
