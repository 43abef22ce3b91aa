"""The view without a screen: what a log would keep."""
