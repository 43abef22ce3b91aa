"""A run watched in this process's terminal: in a dashboard, as lines, or as JSON."""
