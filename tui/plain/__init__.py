"""The view without a screen: lines for a log."""
