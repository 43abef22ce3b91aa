"""What the screens are made of: pure functions from a state to lines, and the widgets that show lines."""
