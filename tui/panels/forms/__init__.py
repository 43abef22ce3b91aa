"""The forms of a new run and of a sweep as data, and the lines beside them."""
