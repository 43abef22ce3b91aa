"""One rank, from joining to leaving."""
