"""Words, numbers and their styles, as every view says them."""
