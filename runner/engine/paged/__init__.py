"""What the continuous engine opens transformers' manager with: its settings, and what it tries to be faster."""
