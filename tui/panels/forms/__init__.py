"""What the forms of the start screen and of a sweep say."""
